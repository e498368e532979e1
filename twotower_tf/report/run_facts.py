"""Collects what a report says of the run itself: directory, date, data, training, configuration."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twotower_tf import __version__, artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables import timestamps


@dataclass(frozen=True)
class RunFacts:
    """What a report says of a run.

    `monitor` is the validation metric that chose the best epoch, "" where the last is kept. `best_epoch` counts from 1
    and is 0 without `history`, the figures by epoch: `epoch`, `loss`, validation metrics.
    """

    name: str
    run_dir: str
    date: str
    data: str
    configuration: str
    monitor: str = ""
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def collect_facts(run_dir: Path, config: ExperimentConfig) -> RunFacts:
    """Reads the facts of a trained run; the date is that of metrics.json.

    Raises:
        ArtifactError: where the run is not prepared, or a file is damaged.
    """
    paths = RunPaths(run_dir)
    training = artifacts.read_json(paths.train, "run directory") if paths.train.is_file() else {}
    written = datetime.datetime.fromtimestamp(paths.metrics.stat().st_mtime, datetime.timezone.utc)
    return RunFacts(
        name=config.name,
        run_dir=str(run_dir.resolve()),
        date=f"{written:%Y-%m-%d %H:%M} UTC, twotower_tf {__version__}",
        data=describe_data(Prepared.open(run_dir).manifest),
        configuration=configuration.to_json(config),
        monitor=config.train.monitor,
        best_epoch=training.get("best_epoch", 0),
        history=[
            {name.removeprefix("val_"): value for name, value in epoch.items()} for epoch in training.get("history", [])
        ],
    )


def describe_data(manifest: dict[str, Any]) -> str:
    """Formats the counts of a preparation's manifest in a line."""
    rows, times = manifest["rows"], manifest["time_range"]
    parts = [f"{rows['read']:,} rows read, {rows['used']:,} used"]
    if rows["quarantined"]:
        parts.append(f"{rows['quarantined']:,} quarantined")
    positives = ", ".join(f"{split} {counts['positives']:,}" for split, counts in manifest["splits"].items())
    parts += [f"positives: {positives}", f"{manifest['users']:,} users", f"{manifest['items']:,} items"]
    if times and times[1] < timestamps.FIRST_DATE:
        parts.append(f"positions {times[0]:,} to {times[1]:,}")
    elif times:
        first, last = (datetime.datetime.fromtimestamp(time, datetime.timezone.utc) for time in times)
        parts.append(f"{first:%Y-%m-%d} to {last:%Y-%m-%d}")
    return "; ".join(parts)
