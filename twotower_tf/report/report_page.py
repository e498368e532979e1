"""Writes report.html, a self-contained page with the results of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from twotower_tf import artifacts
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.evaluate.ranking_metrics import NAMES
from twotower_tf.report import figures, html_page
from twotower_tf.report.run_facts import RunFacts, collect_facts

_HEADLINE_K = 20


def write_report(run_dir: Path, config: ExperimentConfig, document: dict[str, Any]) -> None:
    """Writes RUN_DIR/report.html atomically from the content of metrics.json.

    Raises:
        ArtifactError: where the run is not prepared, or a file is damaged.
    """
    artifacts.write_text(RunPaths(run_dir).report, render_report(collect_facts(run_dir, config), document))


def render_report(run: RunFacts, document: dict[str, Any]) -> str:
    """Renders the report to HTML text from the content of metrics.json."""
    ks = sorted(document["protocol"]["ks"])
    k = min(ks, key=lambda each: (abs(each - _HEADLINE_K), each))
    rankings = {"model": document["metrics"], **document["baselines"]}
    slices, intervals = document["slices"], document["intervals"]
    recalls = [f"recall@{each}" for each in ks]
    pictures = {
        "curves": figures.draw_curves(
            {label: [metrics[name] for name in recalls] for label, metrics in rankings.items()},
            ks,
            "recall",
            [intervals[name] for name in recalls] if intervals else (),
        ),
        **{group: figures.draw_bars(slices[group], f"recall@{k}") for group in slices},
        "cosines": figures.draw_cosines(document["collapse"]["histogram"]),
    }
    if run.history:
        pictures["training"] = figures.draw_training(run.history, run.monitor, run.best_epoch)
    return html_page.render_template(
        "report.html.jinja",
        run=run,
        document=document,
        k=k,
        tiles=[_tile(f"{metric}@{k}", document) for metric in NAMES],
        rows=[_row(metric, rankings, intervals) for metric in document["metrics"]],
        baselines=[figures.LABELS.get(name, name) for name in document["baselines"]],
        pictures={label: Markup(text) for label, text in pictures.items()},
    )


def _tile(metric: str, document: dict[str, Any]) -> dict[str, Any]:
    value, popular = document["metrics"][metric], document["baselines"]["popularity"][metric]
    interval = document["intervals"].get(metric)
    return {"metric": metric, "value": value, "interval": interval, "times": value / popular if popular else None}


def _row(metric: str, rankings: dict[str, dict[str, float]], intervals: dict[str, list[float]]) -> dict[str, Any]:
    values = {label: metrics[metric] for label, metrics in rankings.items()}
    model, popular = values.pop("model"), values["popularity"]
    return {
        "metric": metric,
        "model": model,
        "interval": intervals.get(metric),
        "baselines": list(values.values()),
        "times": model / popular if popular else None,
    }
