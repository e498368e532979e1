"""Reads input files at the executors, each in its own task, with the readers of the DuckDB engine."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.errors import DataError
from twotower_tf.prepare.spark.spark_tasks import Local, Part, list_parts, new_directory
from twotower_tf.sql import Connection
from twotower_tf.tables import input_files, parquet_parts, readers
from twotower_tf.tables.csv_records import MalformedRecord
from twotower_tf.tables.duckdb_engine import open_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.readers import parquet, scans

_PART_ROWS = 1 << 18


@dataclass(frozen=True)
class FileRows:
    """The result of reading one input file.

    Attributes:
        source: the file, or its copy without broken records.
        parts: its good records, in order.
        columns: the columns that were read, by their name in the file.
        known: every column name of the file.
        malformed: records set aside.
        schema: of a Parquet file.
        unnamed: whether the file has columns without a name.
    """

    source: InputFile
    parts: list[Part]
    columns: dict[str, Column]
    known: list[str]
    malformed: list[MalformedRecord]
    schema: pa.Schema | None
    unnamed: bool


def read_file(local: Local, source: InputFile, wanted: Wanted, directory: Path) -> FileRows | Exception:
    """Reads one input file into Parquet parts in `directory`."""
    temporary = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    temporary.parent.mkdir(exist_ok=True)
    try:
        reach = [Path(local.work), source.path.parent]
        with open_engine(new_directory(local), local.memory_limit, 1, directories=reach) as connection:
            table = readers.read_table(connection, "input", [source], wanted)
            names = ", ".join(column.identifier for column in table.columns.values())
            parquet_parts.write_parts(connection, f"SELECT {names or 'source'} FROM input", temporary, _PART_ROWS)
            source = table.sources[0]
            if source.original is not None:  # a repaired copy lasts: the places of bad rows are found in it later
                source = replace(source, path=Path(local.work) / source.path.name)
                os.replace(table.sources[0].path, source.path)
    except (duckdb.Error, DataError) as error:
        return error
    try:
        os.rename(temporary, directory)
    except OSError:
        if not directory.is_dir():  # there: this task's other attempt was first, with the same rows
            raise
    schema = pq.read_schema(source.path) if source.suffix in input_files.PARQUET else None
    unnamed = bool(table.unnamed)
    return FileRows(source, list_parts(directory), table.columns, table.known, table.malformed, schema, unnamed)


def merge_files(name: str, found: Sequence[FileRows], wanted: Wanted, shadow: Connection) -> tuple[Table, list[Part]]:
    """Merges files into the table that `readers.read_table` would return, and its parts.

    Args:
        name: of the table.
        found: the files, in order.
        wanted: the columns that are read.
        shadow: a DuckDB, which gives a column with several types in its files the type that all have in common.

    Raises:
        DataError: for Parquet files of which a column is, say, text in one and a number in another.
    """
    sources = [each.source for each in found]
    schemas = [each.schema for each in found if each.schema is not None]
    if schemas:
        parquet.check_types(sources, schemas, wanted)
    keys = {key for source in sources for key, _ in source.partition}
    known = sorted(dict.fromkeys(column for each in found for column in each.known), key=keys.__contains__)
    columns: dict[str, Column] = {}
    for column in known:
        kinds = dict.fromkeys(each.columns[column].kind for each in found if column in each.columns)
        if kinds:
            union = " UNION ALL ".join(f"SELECT CAST(NULL AS {kind}) AS value" for kind in kinds)
            kind = str(shadow.execute(f"DESCRIBE {union}").fetchall()[0][1])
            columns[column] = Column(f"c{len(columns)}", kind)
    table = Table(
        name,
        sources,
        columns,
        known,
        [record for each in found for record in each.malformed],
        scans.find_missing_columns(sources, [each.known or None for each in found]),
        [0, *itertools.accumulate(sum(part.rows for part in each.parts) for each in found)],
        [each.source for each in found if each.unnamed],
    )
    selects = [_select(position, each, columns) for position, each in enumerate(found)]
    return table, [
        replace(part, select=select) for select, each in zip(selects, found, strict=True) for part in each.parts
    ]


def _select(position: int, file: FileRows, columns: dict[str, Column]) -> str:
    values = [(file.columns[name].identifier if name in file.columns else "NULL", columns[name]) for name in columns]
    typed = [f"CAST({value} AS {column.kind}) AS {column.identifier}" for value, column in values]
    return ", ".join([f"CAST({position} AS INTEGER) AS source", *typed])
