"""Reads input files at the executors, each in its own task, with the readers of the DuckDB engine."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.errors import raise_first
from twotower_tf.prepare.spark.spark_tasks import Local, Part, list_parts, new_directory
from twotower_tf.sql import Connection
from twotower_tf.tables import input_files, parquet_parts, readers
from twotower_tf.tables.duckdb_engine import open_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.readers import parquet, scans

_PART_ROWS = 1 << 18


@dataclass(frozen=True)
class FileRows:
    """Rows of one input file: the table that its reader returns, the parts, and the schema of a Parquet file."""

    table: Table
    parts: list[Part]
    schema: pa.Schema | None


def read_file(local: Local, source: InputFile, wanted: Wanted, directory: Path) -> FileRows:
    """Reads one input file into Parquet parts in `directory`."""
    temporary = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    temporary.parent.mkdir(exist_ok=True)
    reach = [Path(local.work), source.path.parent]
    with open_engine(new_directory(local), local.memory_limit, 1, directories=reach) as connection:
        table = readers.read_table(connection, "input", [source], wanted)
        names = ", ".join(column.identifier for column in table.columns.values())
        parquet_parts.write_parts(connection, f"SELECT {names or 'source'} FROM input", temporary, _PART_ROWS)
        (read,) = table.sources
        if read.original is not None:  # a repaired copy lasts: the places of bad rows are found in it later
            table.sources = [replace(read, path=Path(local.work) / read.path.name)]
            os.replace(read.path, table.sources[0].path)
    try:
        os.rename(temporary, directory)
    except OSError:
        if not directory.is_dir():  # there: this task's other attempt was first, with the same rows
            raise
    return FileRows(
        table, list_parts(directory), pq.read_schema(source.path) if source.suffix in input_files.PARQUET else None
    )


def merge_files(name: str, found: Sequence[FileRows], wanted: Wanted, shadow: Connection) -> tuple[Table, list[Part]]:
    """Merges files, in order, into the table `name` that `readers.read_table` would return, and its parts.

    A column with several types in its files has the type that `shadow`, a DuckDB, gives to all of them.

    Raises:
        DataError: for Parquet files of which a column is, say, text in one and a number in another.
    """
    tables = [each.table for each in found]
    sources = [table.sources[0] for table in tables]
    if schemas := [each.schema for each in found if each.schema is not None]:
        raise_first(misfit for _, misfit in parquet.find_type_conflicts(sources, schemas, wanted))
    keys = {key for source in sources for key, _ in source.partition}
    known = sorted(dict.fromkeys(column for table in tables for column in table.known), key=keys.__contains__)
    columns: dict[str, Column] = {}
    for column in known:
        kinds = dict.fromkeys(table.columns[column].kind for table in tables if column in table.columns)
        if kinds:
            union = " UNION ALL ".join(f"SELECT CAST(NULL AS {kind}) AS value" for kind in kinds)
            kind = str(shadow.execute(f"DESCRIBE {union}").fetchall()[0][1])
            columns[column] = Column(f"c{len(columns)}", kind)
    merged = Table(
        name,
        sources,
        columns,
        known,
        [record for table in tables for record in table.malformed],
        scans.find_missing_columns(sources, [table.known or None for table in tables]),
        [0, *itertools.accumulate(table.rows for table in tables)],
        [source for table in tables for source in table.unnamed],
    )
    return merged, [
        replace(part, select=_typed_columns(position, each.table, columns))
        for position, each in enumerate(found)
        for part in each.parts
    ]


def _typed_columns(position: int, table: Table, columns: dict[str, Column]) -> str:
    """Returns the SQL list of the merged table's columns from those of the file at a position."""
    selected = [f"CAST({position} AS INTEGER) AS source"]
    for name, column in columns.items():
        value = table.columns[name].identifier if name in table.columns else "NULL"
        selected.append(f"CAST({value} AS {column.kind}) AS {column.identifier}")
    return ", ".join(selected)
