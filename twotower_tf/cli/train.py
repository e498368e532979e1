"""Trains the towers on the output of `prepare`: RUN_DIR/checkpoints, RUN_DIR/logs (TensorBoard), RUN_DIR/train.json.

The configuration is RUN_DIR/config.json, changed by --config and --set. It is an error if they need other prepared
data, or if they would replace a model of another configuration without --overwrite.
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
    options.config(values, "configuration file (default: RUN_DIR/config.json)")
    flags.DEFINE_bool(
        "resume", False, "continue after the last checkpoint; without one, start over", flag_values=values
    )
    flags.DEFINE_string(
        "warm_start",
        "",
        "run directory, export directory or version of a bundle whose model weights initialize the new model",
        flag_values=values,
    )
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Trains, and prints a summary of train.json."""
    from twotower_tf import pipeline, run_lock
    from twotower_tf.cli import progress_bar

    run_dir = Path(values.run_dir)
    with run_lock.working(run_dir), progress_bar.shown() as show:
        _, config = pipeline.asked(run_dir, values.config, values.set)
        pipeline.adopt(run_dir, config, overwrite=values.overwrite, resume=values.resume)
        from twotower_tf.train import training_loop

        training_loop.share_cores()
        report = pipeline.Runner(config, run_dir, show, print).train(resume=values.resume, warm_start=values.warm_start)
    print(told(report))


def told(report: dict[str, Any]) -> str:
    """Formats the training report as one line."""
    return (
        f"{report['epochs']} epochs, best epoch {report['best_epoch']}; "
        f"{report['examples_per_second']:,.0f} examples per second, {report['step_ms']:.1f} ms per step"
    )
