"""Formats the results of the pipeline's stages for a terminal."""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from twotower_tf.cli import text_table
from twotower_tf.evaluate.baseline_names import label_ranking
from twotower_tf.number_texts import format_count
from twotower_tf.stage_results import EvaluateResult, PrepareResult, Result, TrainResult, TuneResult

_SHOWN = 10  # weights listed


def format_result(result: Result) -> str:
    """Formats a stage's figures in a few lines."""
    if isinstance(result, PrepareResult):
        return format_rows(result)
    if isinstance(result, TrainResult):
        return format_training(result)
    return format_metrics(result) if isinstance(result, EvaluateResult) else str(result.path)


def format_rows(result: PrepareResult) -> str:
    """Formats how many rows were read and used, why others were not, and what is odd about the input."""
    manifest = result.manifest
    rules = {"exclude": "excluded by data.exclude"}
    unused = [
        f"{count:,} {rules.get(reason, reason)}" for reason, count in manifest["rows"]["excluded"].items() if count
    ]
    if result.rows_quarantined:
        unused.append(f"{result.rows_quarantined:,} quarantined (prepared/quarantine.jsonl)")
    older = [
        f"\n{name}: {counts['read']:,} read, {counts['duplicates']:,} older rows with the same id dropped"
        for name, counts in manifest["tables"].items()
        if counts["duplicates"]
    ]
    splits = [f"{name} {split['rows']:,}" for name, split in manifest["splits"].items()]
    return (
        f"rows: {result.rows_read:,} read, {result.rows_used:,} used"
        + (f", not used: {', '.join(unused)}" if unused else "")
        + "".join(older)
        + f"\n{', '.join(splits)}; {result.items:,} items, {result.users:,} users"
        + "".join(f"\nwarning: {line}" for line in manifest.get("warnings", ()))
    )


def format_training(result: TrainResult) -> str:
    """Formats the training's figures in a line."""
    return (
        f"{format_count(result.epochs, 'epoch')}, best epoch {result.best_epoch}; "
        f"{result.examples_per_second:,.0f} examples per second, {result.figures['step_ms']:.1f} ms per step"
    )


def format_metrics(result: EvaluateResult) -> str:
    """Formats a table with a line per metric: the model with its 95 % confidence interval, and the baselines."""
    baselines, intervals = result.baselines, result.figures["intervals"]
    rows = [
        [
            metric,
            f"{value:.4f}",
            "{:.4f} to {:.4f}".format(*intervals[metric]) if metric in intervals else "",
            *(f"{baselines[name][metric]:.4f}" for name in baselines),
        ]
        for metric, value in result.metrics.items()
    ]
    title = f"{result.split} split, {result.users:,} users"
    header = ["metric", "model", "95 % interval", *map(label_ranking, baselines)]
    table = title + "\n" + text_table.format_table(header, rows, right=range(1, len(header)))
    return f"{table}\n{format_clicks(result.figures['clicks'])}" if "clicks" in result.figures else table


def format_clicks(clicks: Mapping[str, Any]) -> str:
    """Formats the quality of click probabilities in a line."""
    return (
        f"click probabilities of {clicks['rows']:,} rows: AUC {clicks['auc']:.4f}, log loss {clicks['log_loss']:.4f} "
        f"({clicks['log_loss_of_share']:.4f} by the share of positives alone), mean {clicks['mean_probability']:.4f} "
        f"for {clicks['positive_share']:.4f} observed"
    )


def format_search(result: TuneResult) -> str:
    """Formats the best trials of a search as a table, and what gives their settings."""
    fields = list(result.values)
    ranked = sorted(result.trials, key=lambda trial: (trial["state"] != "finished", -(trial["value"] or 0.0)))
    rows = [
        [
            str(trial["number"]),
            trial["state"],
            "" if trial["value"] is None else f"{trial['value']:.4f}",
            str(trial["best_epoch"] or ""),
            f"{trial['seconds']:.0f}",
            *(_short(trial["values"].get(field, "")) for field in fields),
        ]
        for trial in ranked[:_SHOWN]
    ]
    header = ["trial", "state", result.monitor, "epoch", "seconds", *fields]
    states = collections.Counter(trial["state"] for trial in result.trials)
    counted = ", ".join(f"{count} {state}" for state, count in states.items())
    table = text_table.format_table(header, rows, right=range(2, len(header)))
    return f"{table}\n{format_count(len(result.trials), 'trial')}: {counted}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_warnings(warnings: Iterable[Mapping[str, str]], before: str = "") -> None:
    """Prints one line per warning of a model to standard error, as results on standard output are read by programs."""
    for each in warnings:
        print(f"{before}warning: {each['text']} [{each['name']}]", file=sys.stderr)


def format_weights(version: Path) -> str:
    """Formats both towers' weights by size, from the manifest of a version's directory."""
    from twotower_tf.bundle.bundle import Bundle

    weights = Bundle.read(version, check="light").manifest["tables"]
    sizes = [(side, name, each["shape"], each["bytes"]) for side in weights for name, each in weights[side].items()]
    largest = sorted(sizes, key=lambda each: each[3], reverse=True)
    rows = [
        [side, name, " x ".join(f"{length:,}" for length in shape), _megabytes(size)]
        for side, name, shape, size in largest[:_SHOWN]
    ]
    if len(largest) > _SHOWN:
        rest = largest[_SHOWN:]
        rows.append(["", f"{len(rest)} smaller", "", _megabytes(sum(size for *_, size in rest))])
    total = ", ".join(
        f"{side} tower {_megabytes(sum(each['bytes'] for each in weights[side].values()))}" for side in weights
    )
    return f"{text_table.format_table(['tower', 'weights', 'shape', 'MB'], rows, right=(3,))}\ntotal: {total} MB"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.3f}"
