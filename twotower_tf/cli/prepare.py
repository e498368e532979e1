"""Reads the log and its tables, and writes RUN_DIR/prepared: training shards, catalogue and statistics.

Malformed rows are written to prepared/quarantine.jsonl with file, line and reason. The resolved
configuration is written to RUN_DIR/config.json first; every later command reads that file.
"""

from __future__ import annotations

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("config", "run_dir")


def define(flags: Flags) -> None:
    options.add_config(flags)
    options.add_run_dir(flags)
    options.add_preparation(flags)
    options.add_overwrite(flags)


def run(flags: Flags) -> None:
    """Prepares the run, and prints the counts of rows, items and users."""
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_rows
    from twotower_tf.pipeline import Pipeline

    config, arguments = configuration.load(flags.config, flags.set), options.read_preparation(flags)
    with progress_bar.shown() as show:
        pipeline = Pipeline(config, flags.run_dir, overwrite=flags.overwrite, progress=show, log=print)
        result = pipeline.prepare(force=True, **arguments)
    print(format_rows(result))
