"""Writes the files that servers of a bundle need: settings, docker-compose, and a page about rollout."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from twotower_tf import artifacts
from twotower_tf.errors import ConfigError

_SUFFIX = ".jinja"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # needs no quotes in any of the files


def write_files(directory: Path, name: str) -> list[Path]:
    """Writes the files for the bundle of a name, in place of earlier ones.

    Args:
        directory: next to the export directory: the containers see its parent as /models.
        name: of the model, and of the export directory.

    Returns:
        The files.

    Raises:
        ConfigError: for a name that would need quotes.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--model_name: invalid value {name!r} (expected letters, digits, '.', '_' and '-')")
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("twotower_tf.serve", "deployment"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # none of the files is HTML
    )
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for each in templates.list_templates():
        path = directory / each.removesuffix(_SUFFIX)
        artifacts.write_text(path, templates.get_template(each).render(name=name))
        written.append(path)
    return written
