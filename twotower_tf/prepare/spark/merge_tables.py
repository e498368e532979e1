"""Merges the files of a table, each read by its own task, into one table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from twotower_tf.prepare.spark.spark_tasks import Part, Read
from twotower_tf.tables.duckdb_engine import Connection
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.readers import parquet, scans


def merge_tables(name: str, found: Sequence[Read], wanted: Wanted, shadow: Connection) -> Table:
    """Merges the results of reading its files into the table that `readers.read_table` would return.

    Args:
        name: of the table.
        found: the results of its files, in order.
        wanted: the columns that are read.
        shadow: a DuckDB that resolves types.

    Raises:
        DataError: for Parquet files of which a column is, say, text in one and a number in another.
    """
    sources = [each.source for each in found]
    schemas = [each.schema for each in found if each.schema is not None]
    if schemas:
        parquet.check_types(sources, schemas, wanted)
    keys = {key for source in sources for key, _ in source.partition}
    known = list(dict.fromkeys(column for each in found for column in each.known))
    known = [column for column in known if column not in keys] + [column for column in known if column in keys]
    chosen = [column for column in known if any(column in each.columns for each in found)]
    kinds = {
        column: _common_kind(shadow, [each.columns[column].kind for each in found if column in each.columns])
        for column in chosen
    }
    sizes = [sum(part.rows for part in each.parts) for each in found]
    return Table(
        name,
        sources,
        {column: Column(f"c{index}", kinds[column]) for index, column in enumerate(chosen)},
        known,
        [record for each in found for record in each.malformed],
        scans.find_missing_columns(sources, [each.known or None for each in found]),
        [0, *itertools.accumulate(sizes)],
    )


def _common_kind(shadow: Connection, kinds: Sequence[str]) -> str:
    """Returns the type that DuckDB gives a column with several types in its files."""
    union = " UNION ALL ".join(f"SELECT CAST(NULL AS {kind}) AS value" for kind in dict.fromkeys(kinds))
    return str(shadow.execute(f"DESCRIBE {union}").fetchall()[0][1])


def merge_parts(found: Sequence[Read], table: Table) -> list[Part]:
    """Returns the parts of the table's files, each with the SQL list of the table's columns."""
    return [
        Part(part.path, part.rows, _select(position, each, table))
        for position, each in enumerate(found)
        for part in each.parts
    ]


def _select(position: int, read: Read, table: Table) -> str:
    found = [f"CAST({position} AS INTEGER) AS source"]
    for name, column in table.columns.items():
        value = read.columns[name].identifier if name in read.columns else "NULL"
        found.append(f"CAST({value} AS {column.kind}) AS {column.identifier}")
    return ", ".join(found)
