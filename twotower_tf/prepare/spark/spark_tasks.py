"""Runs DuckDB at the executors, on one file or one part of a table.

Operations on single rows (reading, texts, numbers, times, users' predicates) run in DuckDB here too, so that a value
means the same to both engines. This module does not import pyspark.
"""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.errors import DataError
from twotower_tf.sql import quote_literal
from twotower_tf.tables import input_files, parquet_parts, readers
from twotower_tf.tables.csv_records import MalformedRecord
from twotower_tf.tables.duckdb_engine import open_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column

_PART_ROWS = 1 << 18


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a table, in order.

    Attributes:
        path: on storage that every executor reaches.
        rows: how many.
        select: SQL list that gives the table's columns from the file's.
    """

    path: str
    rows: int
    select: str = "*"


@dataclass(frozen=True)
class Query:
    """An SQL query for one part of a table.

    Attributes:
        table: the table's name in `sql`.
        part: the part.
        first: place of the part's first row in the table, which makes its `rowid`.
        sql: DuckDB's SQL.
        numbered: whether the table shows its `rowid`.
        output: Parquet file for the result.
    """

    table: str
    part: Part
    first: int
    sql: str
    numbered: bool
    output: str


@dataclass(frozen=True)
class Failure:
    """An error of a task, to be raised again by the driver: `kind` is DataError or the name of one of DuckDB's."""

    kind: str
    message: str

    def error(self) -> Exception:
        """The error itself."""
        if self.kind == DataError.__name__:
            return DataError(self.message)
        found: Exception = getattr(duckdb, self.kind, duckdb.Error)(self.message)
        return found


@dataclass(frozen=True)
class Local:
    """Work directory and memory limit of an executor's DuckDB.

    Attributes:
        work: directory for spilling, on storage that every executor reaches.
        memory_limit: of one task's DuckDB.
    """

    work: str
    memory_limit: str


def run_query(local: Local, query: Query) -> int | Failure:
    """Writes the result of a query on one part; returns its rows."""
    _, connection = _engine(local)
    try:
        numbered = f", {query.first} + file_row_number AS rowid" if query.numbered else ""
        scan = f"read_parquet({quote_literal(query.part.path)}, file_row_number=true)"
        columns = query.part.select if query.part.select != "*" else "* EXCLUDE (file_row_number)"
        connection.execute(f'CREATE VIEW "{query.table}" AS SELECT {columns}{numbered} FROM {scan}')
        try:
            return _write(connection, query.sql, Path(query.output))
        finally:
            connection.execute(f'DROP VIEW "{query.table}"')
    except (duckdb.Error, DataError) as error:
        return Failure(type(error).__name__, str(error))


@functools.lru_cache(maxsize=1)
def _engine(local: Local) -> tuple[contextlib.ExitStack, duckdb.DuckDBPyConnection]:
    """The DuckDB of this worker process and what keeps it open; to start one takes longer than a small part does."""
    stack = contextlib.ExitStack()
    return stack, stack.enter_context(
        open_engine(_scratch(local), local.memory_limit, 1, directories=[Path(local.work)])
    )


def close_engine(local: Local) -> None:
    """Closes the DuckDB of this process, where there is one."""
    if _engine.cache_info().currsize:
        _engine(local)[0].close()
        _engine.cache_clear()


def _scratch(local: Local) -> Path:
    return Path(local.work) / f"task-{uuid.uuid4().hex}"


def _write(connection: duckdb.DuckDBPyConnection, sql: str, output: Path) -> int:
    """Writes by rename, so that a task that runs twice leaves one whole file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".{output.name}-{uuid.uuid4().hex}"
    try:
        parquet_parts.write_table(connection, f"SELECT * FROM ({sql})", temporary)  # which names columns apart
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return int(pq.read_metadata(output).num_rows)


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """The result of reading one input file.

    Attributes:
        source: the file, or its copy without broken records.
        parts: its good records, in order.
        columns: the columns that were read, by their name in the file.
        known: every column name of the file.
        malformed: records set aside.
        schema: of a Parquet file.
    """

    source: InputFile
    parts: tuple[Part, ...]
    columns: dict[str, Column]
    known: list[str]
    malformed: list[MalformedRecord]
    schema: pa.Schema | None


def read_file(local: Local, source: InputFile, wanted: Callable[[str], bool], directory: str) -> Read | Failure:
    """Reads one input file into Parquet parts below `directory`."""
    try:
        reach = [Path(local.work), source.path.parent]
        with open_engine(_scratch(local), local.memory_limit, 1, directories=reach) as connection:
            table = readers.read_table(connection, "input", [source], wanted)
            names = [column.identifier for column in table.columns.values()]
            parts = _write_parts(connection, f"SELECT {', '.join(names) or 'source'} FROM input", Path(directory))
            kept = _keep_copy(table.sources[0], local)
    except (duckdb.Error, DataError) as error:
        return Failure(type(error).__name__, str(error))
    schema = pq.read_schema(source.path) if source.suffix in input_files.PARQUET else None
    return Read(kept, tuple(parts), table.columns, table.known, table.malformed, schema)


def _keep_copy(source: InputFile, local: Local) -> InputFile:
    """Moves a repaired copy to where it lasts: the places of bad rows are found in it later."""
    if source.original is None:
        return source
    kept = Path(local.work) / source.path.name
    os.replace(source.path, kept)
    return replace(source, path=kept)


def _write_parts(connection: duckdb.DuckDBPyConnection, sql: str, directory: Path) -> list[Part]:
    temporary = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    for number, table in enumerate(parquet_parts.stream_tables(connection, sql, _PART_ROWS)):
        parquet_parts.write_part(table, temporary, number)
    if not any(temporary.iterdir()):
        empty = connection.sql(f"SELECT * FROM ({sql}) LIMIT 0").to_arrow_table()
        parquet_parts.write_part(empty, temporary, 0)
    try:
        os.rename(temporary, directory)
    except OSError:
        if not directory.is_dir():  # there: this task's other attempt was first, with the same rows
            raise
    paths = sorted(directory.glob("part-*.parquet"))
    return [Part(str(path), int(pq.read_metadata(path).num_rows)) for path in paths]
