"""Prepares, trains, evaluates and exports in one go.

A second run skips finished stages whose configuration and input files are unchanged, and resumes an interrupted
training after its last finished epoch.
"""

from __future__ import annotations

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("config", "run_dir", "export_dir")


def define(flags: Flags) -> None:
    options.add_config(flags)
    options.add_run_dir(flags)
    options.add_export_dir(flags)
    options.add_preparation(flags)
    options.add_publication(flags)
    flags.bool(
        "final",
        False,
        "after the training, train on training and validation rows together for as many epochs (see train --final); "
        "this model is evaluated on the test part and exported",
    )
    options.add_overwrite(flags)


def run(flags: Flags) -> None:
    """Runs the stages and prints the result of each."""
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_result, print_warnings
    from twotower_tf.pipeline import Pipeline

    config, preparation = configuration.load(flags.config, flags.set), options.read_preparation(flags)
    with progress_bar.shown() as show:
        pipeline = Pipeline(
            config, flags.run_dir, flags.export_dir, overwrite=flags.overwrite, progress=show, log=print
        )
        result = pipeline.run(
            final=flags.final,
            prepare=preparation,
            export=options.read_publication(flags),
            after_stage=lambda done: print(format_result(done)),
        )
    if result.evaluate is not None:
        print_warnings(result.evaluate.warnings)
