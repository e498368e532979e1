"""Writes report.html, a self-contained page with the results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from twotower_tf import artifacts
from twotower_tf.artifacts import METRICS_SCHEMA, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.evaluate.baseline_names import label_ranking
from twotower_tf.evaluate.ranking_metrics import NAMES
from twotower_tf.evaluate.slices import MOST_VALUES, OTHER
from twotower_tf.number_texts import format_count
from twotower_tf.report import figures, html_page
from twotower_tf.report.run_facts import RunFacts, collect_facts

_HEADLINE_K = 20
_GROUPS = {
    "item_popularity": (
        "By item popularity",
        "Hot: the top 10 % of the items by training positives. Cold: items without training positives. Tail: the "
        "others.",
    ),
    "user_activity": (
        "By user activity",
        "Low, medium, high: thirds of the users by training positives. New: users without training positives.",
    ),
}


def write_report(
    run_dir: Path, config: ExperimentConfig, document: dict[str, Any], index: dict[str, Any] | None = None
) -> None:
    """Writes RUN_DIR/report.html atomically from the content of metrics.json.

    Args:
        run_dir: the run directory, with item_map.json.
        config: the run's configuration.
        document: the content of metrics.json.
        index: the description of the exported index in the bundle's manifest; None where there is no bundle yet.

    Raises:
        ArtifactError: where the run is not prepared, or a file is missing or damaged.
    """
    paths = RunPaths(run_dir)
    item_map = artifacts.read_json(paths.item_map, "run directory")
    text = render_report(collect_facts(run_dir, config), document, item_map, index)
    artifacts.write_text(paths.report, text)


def add_index(run_dir: Path, config: ExperimentConfig, manifest: dict[str, Any]) -> None:
    """Writes the report again with the index of a bundle, by its manifest, if the bundle's model was evaluated."""
    if manifest["evaluation"] is None:
        return
    document = artifacts.read_json(RunPaths(run_dir).metrics, "run directory")
    if document["schema_version"] == METRICS_SCHEMA:  # else of an earlier version of twotower_tf
        write_report(run_dir, config, document, manifest["index"])


def render_report(
    run: RunFacts, document: dict[str, Any], item_map: dict[str, Any], index: dict[str, Any] | None = None
) -> str:
    """Renders the report to HTML text; see `write_report`."""
    ks = sorted(document["protocol"]["ks"])
    k = min(ks, key=lambda each: (abs(each - _HEADLINE_K), each))
    rankings = {"model": document["metrics"], **document["baselines"]}
    intervals = document["intervals"]
    return html_page.render_template(
        "report.html.jinja",
        format_count=format_count,
        run=run,
        document=document,
        k=k,
        tiles=[_tile(f"{metric}@{k}", document) for metric in NAMES],
        rows=[_row(metric, rankings, intervals) for metric in document["metrics"]],
        baselines=[label_ranking(name) for name in document["baselines"]],
        rankings=[(label_ranking(name), lists) for name, lists in document["lists"].items()],
        groups=[_describe_group(name, slices) for name, slices in document["slices"].items()],
        item_map=item_map,
        index=index,
        pictures={label: Markup(text) for label, text in _draw(run, document, item_map, ks, k).items()},
    )


def _draw(
    run: RunFacts, document: dict[str, Any], item_map: dict[str, Any], ks: Sequence[int], k: int
) -> dict[str, str]:
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
        **{group: figures.draw_bars(slices[group], f"recall@{k}") for group in _GROUPS},
        "cosines": figures.draw_cosines(
            document["collapse"]["histogram"], {"item": "item pairs", "user": "user pairs"}, "share of pairs"
        ),
        "scores": figures.draw_cosines(
            document["scores"]["histogram"], {"held_out": "held-out items", "random": "random items"}, "share of items"
        ),
        "map": figures.draw_map(item_map),
    }
    if run.history:
        pictures["training"] = figures.draw_training(run.history, run.monitor, run.best_epoch)
    return pictures


def _describe_group(name: str, slices: dict[str, Any]) -> dict[str, Any]:
    """Returns name, title, explanation and slices of a group; a column's group has its values."""
    side, _, column = name.partition(".")
    about = (
        f"Values of {'users as of their query' if side == 'user' else 'items'}; a row with several values is in the "
        "slice of each."
    )
    title, about = _GROUPS.get(name, (f"By {column} of the {side}", about))
    if name not in _GROUPS and OTHER in slices:
        about += f" {OTHER}: all but the {MOST_VALUES} values of most users."
    if name == "item_popularity" or side == "item":
        about += " Only held-out items of the slice count as relevant; all items are ranked."
    return {"name": name, "title": title, "about": about, "slices": slices}


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
