"""Reads the log and its tables, and writes RUN_DIR/prepared: training shards, catalogue and statistics.

Malformed rows are written to prepared/quarantine.jsonl with file, line and reason. The resolved
configuration is written to RUN_DIR/config.json first; every later command reads that file.
"""

from __future__ import annotations

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("config", "run_dir")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.config(values)
    options.run_dir(values)
    options.preparation(values)
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Prepares the run, and prints the counts of rows, items and users."""
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_rows
    from twotower_tf.pipeline import Pipeline

    config, spark = configuration.load(values.config, values.set), options.spark(values)
    with progress_bar.shown() as show:
        pipeline = Pipeline(config, values.run_dir, overwrite=values.overwrite, progress=show, log=print)
        result = pipeline.prepare(force=True, **options.preparation_arguments(values, spark))
    print(format_rows(result))
