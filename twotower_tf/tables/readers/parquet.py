"""Parquet files of one schema, or of schemas that DuckDB can bring together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.errors import DataError
from twotower_tf.tables.input_files import Source
from twotower_tf.tables.input_table import Table, Wanted
from twotower_tf.tables.readers import scans, schema_misfits
from twotower_tf.tables.values import quoted


def read(connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted) -> Table:
    """Reads the columns with the types that they have in the files."""
    known: dict[str, None] = {}
    schemas = []
    for source in sources:
        try:
            schemas.append(pq.read_schema(source.path))
        except Exception as error:
            raise DataError(f"{source.name}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None
        known.update(dict.fromkeys(filter(scans.usable, schemas[-1].names)))
    check_types(sources, schemas, wanted)
    partition = scans.partition_keys(sources, known)
    columns = scans.columns_of(list(known), wanted, partition)
    paths = scans.file_list(sources)
    scan = (
        f"read_parquet([{paths}], union_by_name=true, filename='{scans.FILE}', hive_partitioning=false, "
        "binary_as_string=true)"
    )
    positions = list(range(len(sources)))
    called = {key: key for key in known}
    if scans.twins(known, wanted):
        called = _names(connection, sources, schemas, scan)
    values = [
        scans.partition_value(sources, positions, key) if key in partition else quoted(called[key]) for key in columns
    ]
    values = [f"{value} AS {column.identifier}" for value, column in zip(values, columns.values(), strict=True)]
    query = f"SELECT {', '.join([f'{scans.file_position(sources, positions)} AS source', *values])} FROM {scan}"
    try:
        connection.execute(f"CREATE TABLE {name} AS {query}")
    except duckdb.Error as error:
        raise scans.unreadable(sources, error) from None
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {name}").fetchall()}
    columns = {key: replace(column, kind=kinds[column.identifier]) for key, column in columns.items()}
    return Table(
        name,
        sources,
        columns,
        [*known, *partition],
        lacking=scans.lacking_columns(sources, [schema.names for schema in schemas]),
    )


def _names(
    connection: duckdb.DuckDBPyConnection, sources: Sequence[Source], schemas: Sequence[pa.Schema], scan: str
) -> dict[str, str]:
    """What DuckDB calls the columns where names differ in case only: it numbers the later ones.

    Raises:
        DataError: where not all files have the same columns in the same order.
    """
    for source, schema in zip(sources, schemas, strict=True):
        if schema.names != schemas[0].names:
            (one, other, *_), *_ = scans.twins({name: None for each in schemas for name in each.names}, scans.usable)
            raise DataError(
                f"{source.name}: columns {one!r} and {other!r} differ in case only, and {sources[0].name} has other "
                "columns; rename one of the two"
            )
    described = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    return dict(zip(schemas[0].names, (str(name) for name, *_ in described), strict=False))


def check_types(sources: Sequence[Source], schemas: Sequence[pa.Schema], wanted: Wanted) -> None:
    """Refuses a column that is, say, text in one file and a number in another.

    Raises:
        DataError: naming the file, the column and both types.
    """
    for _, misfit in schema_misfits.type_misfits(sources, schemas, wanted):
        raise DataError(misfit)
