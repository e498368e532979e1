"""Writes report.html, a self-contained page with the results of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from twotower_tf import artifacts
from twotower_tf.evaluate.ranking_metrics import NAMES
from twotower_tf.report import figures, html_page

_HEADLINE_K = 20


def write_report(path: Path, name: str, document: dict[str, Any]) -> None:
    """Writes the report atomically.

    Args:
        path: path of the HTML file.
        name: name of the experiment.
        document: the content of metrics.json.
    """
    artifacts.write_text(path, render_report(name, document))


def render_report(name: str, document: dict[str, Any]) -> str:
    """Renders the report to HTML text; see `write_report`."""
    ks = document["protocol"]["ks"]
    k = min(ks, key=lambda each: (abs(each - _HEADLINE_K), each))
    rankings = {"model": document["metrics"], **document["baselines"]}
    slices = document["slices"]
    pictures = {
        "curves": figures.draw_curves(
            {label: [metrics[f"recall@{each}"] for each in sorted(ks)] for label, metrics in rankings.items()},
            sorted(ks),
            "recall",
        ),
        **{group: figures.draw_bars(slices[group], f"recall@{k}") for group in slices},
        "cosines": figures.draw_cosines(document["collapse"]["histogram"]),
    }
    return html_page.render_template(
        "report.html.jinja",
        name=name,
        document=document,
        k=k,
        tiles=[_tile(f"{metric}@{k}", document) for metric in NAMES],
        rows=[_row(metric, rankings) for metric in document["metrics"]],
        pictures={label: Markup(text) for label, text in pictures.items()},
    )


def _tile(metric: str, document: dict[str, Any]) -> dict[str, Any]:
    value, popular = document["metrics"][metric], document["baselines"]["popularity"][metric]
    return {"metric": metric, "value": value, "times": value / popular if popular else None}


def _row(metric: str, rankings: dict[str, dict[str, float]]) -> dict[str, Any]:
    values = {label: metrics[metric] for label, metrics in rankings.items()}
    popular = values["popularity"]
    return {"metric": metric, **values, "times": values["model"] / popular if popular else None}
