"""Runs DuckDB at the executors, on one part of a table.

Operations on single rows (texts, numbers, times, users' predicates) run in DuckDB here too, so that a value means the
same to both engines. This module does not import pyspark.
"""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from twotower_tf.errors import DataError
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import parquet_parts
from twotower_tf.tables.duckdb_engine import open_engine


@dataclass(frozen=True)
class Part:
    """A Parquet file with rows of a table, in order.

    Attributes:
        path: on storage that every executor reaches.
        rows: how many.
        select: SQL list that gives the table's columns from the file's; "" where they are the same.
    """

    path: str
    rows: int
    select: str = ""


@dataclass(frozen=True)
class Local:
    """Work directory and memory limit of an executor's DuckDB.

    Attributes:
        work: directory for spilling, on storage that every executor reaches.
        memory_limit: of one task's DuckDB.
    """

    work: str
    memory_limit: str


def run_query(local: Local, table: str, part: Part, first: int, sql: str, output: str) -> Part | Exception:
    """Runs DuckDB's SQL on one part of a table; returns the result, or the error, which the driver raises again.

    Args:
        local: the executor's DuckDB.
        table: the table's name in `sql`.
        part: the part.
        first: place of the part's first row in the table, which makes its `rowid`.
        sql: the query; where it mentions `rowid`, the table has that column.
        output: Parquet file for the result.
    """
    _, connection = _engine(local)
    try:
        rowid = f", {first} + file_row_number AS rowid" if "rowid" in sql.lower() else ""
        scan = f"read_parquet({quote_literal(part.path)}, file_row_number=true)"
        columns = part.select or "* EXCLUDE (file_row_number)"
        connection.execute(f'CREATE VIEW "{table}" AS SELECT {columns}{rowid} FROM {scan}')
        try:
            return Part(output, _write(connection, sql, Path(output)))
        finally:
            connection.execute(f'DROP VIEW "{table}"')
    except (duckdb.Error, DataError) as error:
        return error


@functools.lru_cache(maxsize=1)
def _engine(local: Local) -> tuple[contextlib.ExitStack, Connection]:
    """The DuckDB of this worker process and what keeps it open; to start one takes longer than a small part does."""
    stack = contextlib.ExitStack()
    return stack, stack.enter_context(
        open_engine(new_directory(local), local.memory_limit, 1, directories=[Path(local.work)])
    )


def close_engine(local: Local) -> None:
    """Closes the DuckDB of this process, where there is one."""
    if _engine.cache_info().currsize:
        _engine(local)[0].close()
        _engine.cache_clear()


def new_directory(local: Local) -> Path:
    """Returns an unused directory below the work directory."""
    return Path(local.work) / f"task-{uuid.uuid4().hex}"


def _write(connection: Connection, sql: str, output: Path) -> int:
    """Writes by rename, so that a task that runs twice leaves one whole file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".{output.name}-{uuid.uuid4().hex}"
    try:
        parquet_parts.write_table(connection, f"SELECT * FROM ({sql})", temporary)  # which names columns apart
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return int(pq.read_metadata(output).num_rows)


def list_parts(directory: Path) -> list[Part]:
    """Lists the parts in a directory, in order."""
    paths = sorted(directory.glob("part-*.parquet"))
    return [Part(str(path), int(pq.read_metadata(path).num_rows)) for path in paths]
