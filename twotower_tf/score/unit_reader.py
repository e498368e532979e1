"""Streams the raw rows of a unit in Arrow tables of a fixed number of rows.

Parquet streams row groups. Other formats go through the readers of the preparation, unit by unit: what a record is, and
what is wrong with a malformed one, is the same for both.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.artifacts import UNFINISHED
from twotower_tf.errors import DataError
from twotower_tf.score.units import Unit
from twotower_tf.score.user_columns import is_text, rename_columns
from twotower_tf.sql import Connection, quote_identifier
from twotower_tf.tables import delimited_header, input_files, input_table, quarantine, readers
from twotower_tf.tables.duckdb_engine import open_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.parquet_parts import regroup_batches

_COPIED = 1 << 24  # bytes at a time

Entry = dict[str, Any]


@dataclass(frozen=True)
class Bad:
    """A row that is quarantined.

    Attributes:
        place: in its unit, from 0; records that are not rows do not count.
        reason: what is wrong with it.
        text: what was read of it.
    """

    place: int
    reason: str
    text: str


@dataclass(frozen=True)
class Rows:
    """An open unit.

    Attributes:
        known: names of the file's columns, as they are read.
        batches: the wanted columns that it has; each table has the rows asked for, the last one excepted.
        entries: returns the quarantine's objects of these rows and of malformed records, in the file's order.
    """

    known: list[str]
    batches: Iterator[pa.Table]
    entries: Callable[[Sequence[Bad]], list[Entry]]


@contextlib.contextmanager
def open_unit(
    source: InputFile,
    unit: Unit,
    wanted: Sequence[str],
    rows: int,
    work: Path,
    memory_limit: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Rows]:
    """Opens a unit for reading.

    Columns that are wanted and that the file lacks are left out. `work` and `memory_limit` are for readers that need a
    directory and memory; each table has `rows` rows, the last one excepted.
    `renamed` has names under which columns of the file are read, by their own (see `rename_columns`).

    Raises:
        DataError: for a file that cannot be read.
    """
    if source.suffix in input_files.PARQUET:
        with _parquet(source, unit, wanted, rows, renamed) as found:
            yield found
        return
    directory = work / f"{UNFINISHED}unit-{uuid.uuid4().hex[:12]}"
    with open_engine(directory, memory_limit, 1, directories=[source.path.parent]) as connection:
        part = source if unit.whole else _cut_out(source, unit, directory)
        table = readers.read_table(connection, "users", [part], {*wanted, *renamed}.__contains__)
        for own, name in renamed.items():
            table.rename_key(own, name)
        selected = ", ".join(
            f"{column.identifier} AS {quote_identifier(name)}"
            for name, column in table.columns.items()
            if name in wanted
        )
        query = f"SELECT {selected or 'source'} FROM users ORDER BY rowid"
        reader = connection.sql(query).to_arrow_reader(rows)
        yield Rows(
            table.known, regroup_batches(reader, rows), lambda bad: _entries(connection, table, source, unit, bad)
        )


# --- Parquet ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _parquet(
    source: InputFile, unit: Unit, wanted: Sequence[str], rows: int, renamed: Mapping[str, str]
) -> Iterator[Rows]:
    with _read_errors(source):
        schema = pq.read_schema(source.path)
        own = dict(zip(rename_columns(schema.names, renamed), schema.names, strict=True))
        names = [own[name] for name in wanted if name in own]
        # texts as dictionaries: each distinct value is decoded once
        coded = [name for name in names if is_text(schema.field(name).type)]
        opened = pq.ParquetFile(source.path, read_dictionary=coded)
    partition = {key: value for key, value in source.partition if key not in own}
    constants = {key: value for key, value in partition.items() if key in wanted}
    with opened as file:
        skipped = unit.first - sum(file.metadata.row_group(group).num_rows for group in range(unit.start))
        groups = list(range(unit.start, unit.stop))
        batches = _cut_batches(
            file.iter_batches(rows, row_groups=groups, columns=names, use_threads=False), skipped, unit.rows
        )
        tables = (
            table.rename_columns(rename_columns(table.column_names, renamed))
            for table in _read_tables(source, batches, rows, constants)
        )
        yield Rows([*filter(None, own), *partition], tables, lambda bad: _rows(source, unit, bad))


def _cut_batches(batches: Iterator[pa.RecordBatch], start: int, rows: int) -> Iterator[pa.RecordBatch]:
    """Yields `rows` rows from row `start` on."""
    for batch in batches:
        found = batch.slice(min(start, len(batch)), rows)
        start -= min(start, len(batch))
        rows -= len(found)
        if len(found):
            yield found
        if not rows:
            return


def _read_tables(
    source: InputFile, batches: Iterator[pa.RecordBatch], rows: int, constants: dict[str, str]
) -> Iterator[pa.Table]:
    with _read_errors(source):
        for table in regroup_batches(batches, rows):
            yield _with_partition(_compact(table), constants)


@contextlib.contextmanager
def _read_errors(source: InputFile) -> Iterator[None]:
    """Turns errors of reading, and of nothing else, into a DataError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.name}: cannot be read: {' '.join(str(error).split())[:200]}") from None


def _compact(table: pa.Table) -> pa.Table:
    """Removes dictionaries of whole row groups that are longer than the table."""
    for position, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type) and max(len(chunk.dictionary) for chunk in column.chunks) > len(column):
            table = table.set_column(position, table.column_names[position], column.cast(column.type.value_type))
    return table


def _with_partition(table: pa.Table, partition: dict[str, str]) -> pa.Table:
    for key, value in partition.items():
        table = table.append_column(key, pa.repeat(pa.scalar(value), table.num_rows).dictionary_encode())
    return table


def _rows(source: InputFile, unit: Unit, bad: Sequence[Bad]) -> list[Entry]:
    return [
        {"file": source.name, "row": unit.first + each.place + 1, "reason": each.reason, "text": each.text}
        for each in bad
    ]


# --- other formats ------------------------------------------------------------------------------------------------


def _cut_out(source: InputFile, unit: Unit, directory: Path) -> InputFile:
    """Copies the unit, with the file's header."""
    source = delimited_header.pin_delimiter(source)
    path = directory / f"unit{source.suffix}"
    with source.path.open("rb") as file, path.open("wb") as copy:
        if _headers(source):
            copy.write(file.readline())
        file.seek(unit.start)
        left = unit.stop - unit.start
        while left and (block := file.read(min(left, _COPIED))):
            copy.write(block)
            left -= len(block)
    return replace(source, path=path)


def _headers(source: InputFile) -> int:
    """Returns the number of lines of a file before its rows."""
    return int(source.suffix in input_files.DELIMITERS and not source.columns)


def _entries(
    connection: Connection, table: input_table.Table, source: InputFile, unit: Unit, bad: Sequence[Bad]
) -> list[Entry]:
    found = quarantine.build_entries(connection, table, [(each.place, each.reason) for each in bad])
    before = 0 if unit.whole else unit.first - _headers(source)
    for entry in found:
        for key in ("line", "record"):
            if key in entry:
                entry[key] += before
    return found
