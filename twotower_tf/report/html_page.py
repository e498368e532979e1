"""Renders self-contained HTML pages from the templates of this package."""

from __future__ import annotations

from typing import Any

import jinja2


def render_template(template: str, **values: Any) -> str:
    """Renders a template of this package to HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**values)
