"""Checks the schema of every input file, and its rows, against the configuration before anything runs.

All rows of tables below 32 MB are checked, and a sample of larger ones. Prints all problems, one per line, each with
its file and line or column; exit status 2 if there is any. Notes are about rows that would be set aside, files that
would be left out, and side tables whose ids are not those of the log.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags
from twotower_tf.errors import DataError

REQUIRED = ("config",)


def define(flags: Flags) -> None:
    options.add_config(flags)


def run(flags: Flags) -> None:
    """Prints problems and notes, and where there is no problem the files and rows that were checked.

    Raises:
        DataError: with the number of problems.
    """
    from twotower_tf import config as configuration
    from twotower_tf import progress_bar
    from twotower_tf.number_texts import format_count
    from twotower_tf.onboarding import validate_inputs
    from twotower_tf.tables import input_files
    from twotower_tf.tables.duckdb_engine import open_engine

    config = configuration.load(flags.config, flags.set)
    tables = (config.data.events, config.data.items, config.data.users)
    with tempfile.TemporaryDirectory() as directory:
        small = Path(directory) / "samples"
        small.mkdir()
        reach = [small, *(input_files.find_directory(Path(config.data.root), path) for path in tables if path)]
        with (
            progress_bar.shown() as show,
            open_engine(Path(directory) / "work", "2GB", 0, directories=reach) as connection,
        ):
            report = validate_inputs.validate_tables(connection, config, small, show)
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        print(f"note: {note}")
    if report.problems:
        count = format_count(len(report.problems), "problem")
        raise DataError(f"{flags.config}: {count} found; see the lines above")
    for name, rows in report.rows.items():
        print(f"{name}: {format_count(report.files[name], 'file')}, {format_count(rows, 'row')} checked")
    print(f"{flags.config}: no problem")
