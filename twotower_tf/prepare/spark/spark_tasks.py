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
from typing import NamedTuple

import pyarrow.parquet as pq

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


class Local(NamedTuple):
    """Work directory, on storage that every executor reaches, and memory limit of one task's DuckDB."""

    work: str
    memory_limit: str


def run_query(local: Local, table: str, part: Part, first: int, sql: str, output: str) -> Part:
    """Runs DuckDB's SQL on one part of a table, which is named `table` there; writes the result to the file `output`.

    Where `sql` mentions `rowid`, the table has that column; `first` is the value of the part's first row.
    """
    connection = _open_worker_engine(local)[1]
    rowid = f", {first} + file_row_number AS rowid" if "rowid" in sql.lower() else ""
    scan = f"read_parquet({quote_literal(part.path)}, file_row_number=true)"
    columns = part.select or "* EXCLUDE (file_row_number)"
    connection.execute(f'CREATE VIEW "{table}" AS SELECT {columns}{rowid} FROM {scan}')
    try:
        return Part(output, _write_whole(connection, sql, Path(output)))
    finally:
        connection.execute(f'DROP VIEW "{table}"')


@functools.lru_cache(maxsize=1)
def _open_worker_engine(local: Local) -> tuple[contextlib.ExitStack, Connection]:
    """Opens the DuckDB of this process, which serves all of its tasks: to start one takes longer than a small part."""
    stack = contextlib.ExitStack()
    engine = open_engine(new_directory(local), local.memory_limit, 1, directories=[Path(local.work)])
    return stack, stack.enter_context(engine)


def close_worker_engine(local: Local) -> None:
    """Closes the DuckDB of this process, where there is one."""
    if _open_worker_engine.cache_info().currsize:
        _open_worker_engine(local)[0].close()
        _open_worker_engine.cache_clear()


def new_directory(local: Local) -> Path:
    """Returns an unused directory below the work directory."""
    return Path(local.work) / f"task-{uuid.uuid4().hex}"


def _write_whole(connection: Connection, sql: str, output: Path) -> int:
    """Writes a query's rows by rename, so that a task that runs twice leaves one whole file; returns their number."""
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
