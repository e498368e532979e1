"""Trains the towers on the output of `prepare`: RUN_DIR/checkpoints, RUN_DIR/logs (TensorBoard), RUN_DIR/train.json.

The configuration is RUN_DIR/config.json, changed by --config and --set. It is an error if they need other prepared
data, or if they would replace a model of another configuration without --overwrite.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options
from twotower_tf.errors import ConfigError

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
    flags.DEFINE_bool(
        "final",
        False,
        "train on training and validation rows together, for the epochs that the finished training of --run_dir chose; "
        "evaluate (on test) and export use this model, in RUN_DIR/final",
        flag_values=values,
    )
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Trains, and prints a summary of train.json."""
    from twotower_tf import progress_bar, run_stages
    from twotower_tf.cli.result_texts import format_training
    from twotower_tf.pipeline import Pipeline

    if values.final and (values.warm_start or values.overwrite):
        flag = "warm_start" if values.warm_start else "overwrite"
        raise ConfigError(f"--{flag}: invalid with --final, which repeats the training of --run_dir; leave it out")
    _, config = run_stages.read_configs(Path(values.run_dir), values.config, values.set)
    with progress_bar.shown() as show:
        pipeline = Pipeline(config, values.run_dir, overwrite=values.overwrite, progress=show, log=print)
        if values.final:
            result = pipeline.final_fit(force=True, resume=values.resume, share_cores=True)
        else:
            result = pipeline.train(force=True, resume=values.resume, warm_start=values.warm_start, share_cores=True)
    print(format_training(result))
