"""Trains the two towers on what `prepare` wrote: RUN_DIR/checkpoints, RUN_DIR/logs (TensorBoard), RUN_DIR/train.json.

The configuration is RUN_DIR/config.json. --config or --set change it first; they are refused where they ask for other
prepared data, or would replace a model of another configuration without --overwrite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("run_dir",)


def define(values: FlagValues) -> None:
    """The command's flags."""
    options.run_dir(values)
    options.config(values, "configuration file; by default RUN_DIR/config.json")
    flags.DEFINE_bool(
        "resume", False, "goes on after the last checkpoint; with none, from the beginning", flag_values=values
    )
    flags.DEFINE_string(
        "warm_start",
        "",
        "run directory, export directory or one of its versions: begins with the weights of the model there",
        flag_values=values,
    )
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Trains, and prints the figures of train.json."""
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
    """The training's figures in a line."""
    return (
        f"{report['epochs']} epochs, the best is {report['best_epoch']}; "
        f"{report['examples_per_second']:,.0f} examples per second, {report['step_ms']:.1f} ms per step"
    )
