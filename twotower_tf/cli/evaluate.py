"""Ranks the whole catalogue for the held-out events of a split; compares with popularity and random baselines.

Writes RUN_DIR/metrics.json and RUN_DIR/report.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("run_dir",)


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.run_dir(values)
    flags.DEFINE_enum("split", "test", ["valid", "test"], "held-out split to evaluate", flag_values=values)


def run(values: FlagValues) -> None:
    """Evaluates the model, and prints its metrics next to those of the baselines."""
    from twotower_tf import config as configuration
    from twotower_tf import pipeline, run_lock
    from twotower_tf.cli import progress_bar

    run_dir = Path(values.run_dir)
    with run_lock.working(run_dir), progress_bar.shown() as show:
        config = configuration.load_run(run_dir)
        report = pipeline.Runner(config, run_dir, show, print).evaluate(values.split)
    print(told(report))
    print(f"\n{run_dir / 'report.html'}")


def told(report: dict[str, Any]) -> str:
    """Formats a table with one line per metric, and one column for the model and each baseline."""
    from twotower_tf.cli import text_table

    baselines = report["baselines"]
    rows = [
        [metric, f"{value:.4f}", *(f"{baselines[name][metric]:.4f}" for name in baselines)]
        for metric, value in report["metrics"].items()
    ]
    title = f"{report['split']} split, {report['users']:,} users"
    return title + "\n" + text_table.text(["metric", "model", *baselines], rows, right=range(1, 2 + len(baselines)))
