"""Ranks the whole catalogue for the held-out events of a split; compares with popularity, item-KNN and random lists.

Writes RUN_DIR/metrics.json and RUN_DIR/report.html. Ends with warnings on standard error where the model is bad.
"""

from __future__ import annotations

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("run_dir",)


def define(flags: Flags) -> None:
    options.add_run_dir(flags)
    flags.enum("split", "test", ["valid", "test"], "held-out split to evaluate")


def run(flags: Flags) -> None:
    """Evaluates the model, and prints its metrics next to those of the baselines."""
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_metrics, print_warnings
    from twotower_tf.pipeline import Pipeline

    with progress_bar.shown() as show:
        result = Pipeline.open(flags.run_dir, progress=show, log=print).evaluate(flags.split, force=True)
    print(f"{format_metrics(result)}\n\n{result.report}")
    print_warnings(result.warnings)
