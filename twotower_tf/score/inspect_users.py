"""Checks a table of users before scoring: its files, columns and types.

Errors are raised before anything is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.score import journal, type_columns, unit_reader, units, user_columns
from twotower_tf.score.score_options import Options
from twotower_tf.score.units import Unit
from twotower_tf.score.user_columns import Column
from twotower_tf.tables import delimited_header, input_files, json_layout, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.read_options import read_options
from twotower_tf.tables.readers.parquet import open_parquet
from twotower_tf.tables.time_parser import TimeParser

_SAMPLE = 10_000  # rows inspected
_LOOKED_AT = 1 << 22  # bytes of a text file inspected


@dataclass(frozen=True)
class Input:
    """Inspected users: their files, with the state before anything was read, and the feature columns that these have.

    By `identity`, paths, sizes and times, a changed input is noticed; `renamed` has names under which columns of the
    files are read, by their own.
    """

    sources: tuple[InputFile, ...]
    columns: tuple[Column, ...]
    renamed: Mapping[str, str]
    identity: list[dict[str, Any]]
    snapshot: input_files.FileSnapshot


def inspect_table(options: Options, config: ExperimentConfig, manifest: Mapping[str, Any]) -> Input:
    """Reads the schema of every file and checks the first rows.

    The manifest says in which forms the log writes times and other values.

    Raises:
        ConfigError: for an unknown name among those that may be absent.
        DataError: for users that cannot be read as the model needs them.
    """
    sources = _find(options, config)
    if not sources:
        raise DataError(f"--users: {options.users}: no rows")
    snapshot, identity = input_files.FileSnapshot(sources), journal.fingerprint_files(sources)
    user_id, renamed = config.data.user_id, user_columns.find_renamed(config)
    wanted = [user_id, *(each.name for each in user_columns.list_feature_columns(config))]
    with (
        tempfile.TemporaryDirectory(prefix="twotower-") as work,
        _beginning(sources[0], Path(work)) as (source, unit),
        unit_reader.open_unit(source, unit, wanted, _SAMPLE, Path(work), "1GB", renamed) as rows,
    ):
        heads = [(source, user_columns.rename_columns(names, renamed)) for source, names in _heads(sources[1:])]
        known = [(sources[0], rows.known), *heads]
        present = user_columns.find_columns(config, known, options.absent, manifest.get("text_forms", {}))
        if sources[0].suffix in input_files.PARQUET:
            schemas = [pq.read_schema(source.path) for source in sources]
            user_columns.check_types(present, user_id, sources, schemas, renamed)
        sample = next(rows.batches, None)
    if sample is not None:
        times, markers = TimeParser.of_manifest(manifest), config.data.null_values
        typer = type_columns.ColumnTyper(user_id, present, times, markers)
        typer.check_values(sample, sources[0].name)
    return Input(tuple(sources), present, renamed, identity, snapshot)


def _find(options: Options, config: ExperimentConfig) -> list[InputFile]:
    found = input_files.find_files_like(Path(), options.users, "--users", read_options(config.data, "users"))
    return [source for source in found if source.path.stat().st_size]


def _heads(sources: Sequence[InputFile]) -> list[tuple[InputFile, list[str]]]:
    """Returns the column names of files that have a schema or a header."""
    found: list[tuple[InputFile, list[str]]] = []
    for source in sources:
        partition = [key for key, _ in source.partition]
        if source.suffix in input_files.PARQUET:
            found.append((source, [*_schema(source).names, *partition]))
        elif source.suffix in input_files.DELIMITERS and (header := delimited_header.read_header(source)) is not None:
            found.append((source, [*header.names, *partition]))
    return found


@contextlib.contextmanager
def _beginning(source: InputFile, work: Path) -> Iterator[tuple[InputFile, Unit]]:
    """Yields a unit to inspect: the first one of a Parquet or TFRecord file; of a text, a copy of its first lines.

    Raises:
        DataError: for a file without rows.
    """
    whole = (*input_files.PARQUET, *input_files.TFRECORDS)
    if source.suffix in whole or json_layout.is_whole(source):
        found = units.split_units([source])[:1]
    else:
        with text_encoding.open_text(source) as file:
            text = file.read(_LOOKED_AT)
            text = text[: text.rfind(b"\n") + 1] if file.read(1) else text
        copy = work / f"beginning{source.suffix}"
        copy.write_bytes(text)
        source = dataclasses.replace(source, path=copy, options=text_encoding.utf8_options(source))
        found = units.split_units([source])[:1]
    if not found:
        raise DataError(f"--users: {source.name}: no rows")
    yield source, found[0]


def _schema(source: InputFile) -> pa.Schema:
    with open_parquet(source) as file:
        return file.schema_arrow
