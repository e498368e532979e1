"""Reads your tables and writes a commented, valid configuration: column roles, feature types, buckets, unused columns.

--events is a file, a glob or a directory, as in DataConfig.events; --items and --users are tables with one row per id.
Delimiter, quotes, encoding and marks of missing values are detected; a file without a header line needs the names of
its columns. If a guess is wrong, name the column with a flag, or edit the file.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError, DataError

REQUIRED = ("events", "output")
_ROLES = {
    "user_id": "column of the user id",
    "item_id": "column of the item id",
    "timestamp": "column of the event time",
    "label": "column of labels 0 and 1",
}
_TEXT = {
    "columns": "names of the events' columns, joined by commas, if the file has no header line",
    "item_columns": "the same for --items",
    "user_columns": "the same for --users",
    "delimiter": "between the fields of delimited files, e.g. ::, \\t or \\s+ (default: detected)",
}


def define(flags: Flags) -> None:
    flags.string("events", None, "the event log: a file, a glob or a directory")
    flags.string("items", "", "a table with one row per item")
    flags.string("users", "", "a table with one row per user")
    flags.string("output", None, "the configuration file to write, e.g. configs/shop.py")
    for role, meaning in _ROLES.items():
        flags.string(role, "", f"{meaning} (default: guessed)")
    for name, meaning in _TEXT.items():
        flags.string(name, "", meaning)
    flags.string("memory_limit", "4GB", "memory DuckDB may use before it spills to disk")


def run(flags: Flags) -> None:
    """Writes the configuration once it is validated on the tables, and prints roles, features and notes.

    Raises:
        ConfigError: if --output is not a new Python file.
        DataError: if a table is unusable.
    """
    from twotower_tf import artifacts
    from twotower_tf import config as configuration
    from twotower_tf.onboarding import proposal, render_config, validate_inputs
    from twotower_tf.tables import input_files
    from twotower_tf.tables.duckdb_engine import open_engine

    output = Path(flags.output)
    if output.suffix != ".py":
        raise ConfigError(f"--output: invalid file name '{output}' (expected a .py file, e.g. configs/shop.py)")
    if output.exists():
        raise ConfigError(f"--output: {output} exists already; choose another name or remove it")
    given = {name: getattr(flags, name) for name in (*_ROLES, *_TEXT)}
    paths = {"events": flags.events, "items": flags.items, "users": flags.users}
    reach = [input_files.find_directory(Path(), path) for path in paths.values() if path]
    with tempfile.TemporaryDirectory() as directory:
        work, samples = Path(directory) / "work", Path(directory) / "samples"
        samples.mkdir()
        with open_engine(work, flags.memory_limit, 0, directories=reach) as connection:
            found = proposal.propose_config(connection, paths, given)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", output.stem)
        text = render_config.render_proposal(found, name, str(output))
        draft = Path(directory) / output.name
        draft.write_text(text, encoding="utf-8")
        config = configuration.load(draft)
        with open_engine(work, flags.memory_limit, 0, directories=[samples, *reach]) as connection:
            report = validate_inputs.validate_tables(connection, config, samples)
    if report.problems:
        print("\n".join(report.problems))
        raise DataError(
            f"--output: {output} is not written: the proposal does not fit the tables (see the lines above); correct "
            "them, or name the columns with flags"
        )
    artifacts.write_text(output, text)
    for role, what in (("user_id", found.roles.user), ("item_id", found.roles.item)):
        print(f"{role} = {what.column}: {what.why}")
    print(f"timestamp = {found.roles.time.column or 'none'}: {found.roles.time.why}")
    print(f"label = {found.outcomes.label or 'none'}: {found.outcomes.label_why}")
    for choice in found.outcomes.chosen:
        if choice.field != "label":
            print(f"{choice.field} = {choice.code}: {choice.comment}")
    for choice in found.outcomes.offered:
        print(f"possible: {choice.field} = {choice.code}: {choice.comment}")
    print(f"split = {found.split.code}: {found.split.comment}")
    for side, lines in found.lines.items():
        print(f"{side}_features: {', '.join(line.code for line in lines)}")
    if found.left_out:
        print(f"columns not used: {', '.join(found.left_out)}")
    for note in [*found.notes, *report.notes]:
        print(f"note: {note}")
    print(output)
