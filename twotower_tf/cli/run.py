"""Prepares, trains, evaluates and exports in one go.

A second run skips finished stages whose configuration and input files are unchanged, and resumes an interrupted
training after its last finished epoch.
"""

from __future__ import annotations

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("config", "run_dir", "export_dir")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.config(values)
    options.run_dir(values)
    options.export_dir(values)
    options.preparation(values)
    options.publication(values)
    flags.DEFINE_bool(
        "final",
        False,
        "after the training, train on training and validation rows together for as many epochs (see train --final); "
        "this model is evaluated on the test part and exported",
        flag_values=values,
    )
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Runs the stages and prints the result of each."""
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_result, print_warnings
    from twotower_tf.pipeline import Pipeline

    config, spark = configuration.load(values.config, values.set), options.spark(values)
    with progress_bar.shown() as show:
        pipeline = Pipeline(
            config, values.run_dir, values.export_dir, overwrite=values.overwrite, progress=show, log=print
        )
        result = pipeline.run(
            final=values.final,
            prepare=options.preparation_arguments(values, spark),
            export=options.publication_arguments(values),
            after_stage=lambda done: print(format_result(done)),
        )
    if result.evaluate is not None:
        print_warnings(result.evaluate.warnings)
