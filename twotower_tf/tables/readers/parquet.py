"""Reads Parquet files of one schema, or of schemas that DuckDB can combine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.errors import DataError, raise_first
from twotower_tf.sql import Connection, quote_identifier
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.readers import scans

_DECIMAL_DIGITS = 38


def open_parquet(source: InputFile) -> pq.ParquetFile:
    """Opens a file, to be closed by the caller.

    Raises:
        DataError: where it is not a Parquet file, or cannot be read.
    """
    try:
        return pq.ParquetFile(source.path)
    except Exception as error:
        raise DataError(f"{source.name}: cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def read_parquet(connection: Connection, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
    """Reads the columns with their types in the files."""
    known: dict[str, None] = {}
    schemas = []
    for source in sources:
        with open_parquet(source) as file:
            schemas.append(file.schema_arrow)
        known.update(dict.fromkeys(filter(scans.is_usable_name, schemas[-1].names)))
    raise_first(misfit for _, misfit in find_type_conflicts(sources, schemas, wanted))
    partition = scans.list_partition_keys(sources, known)
    columns = scans.select_columns(list(known), wanted, partition)
    paths = scans.file_list(sources)
    scan = (
        f"read_parquet([{paths}], union_by_name=true, filename='{scans.FILE_COLUMN}', hive_partitioning=false, "
        "binary_as_string=true)"
    )
    positions = list(range(len(sources)))
    called = {key: key for key in known}
    if scans.find_case_conflicts(known, wanted):
        called = _find_names(connection, sources, schemas, scan)
    values = [
        scans.partition_value(sources, positions, key) if key in partition else quote_identifier(called[key])
        for key in columns
    ]
    values = [f"{value} AS {column.identifier}" for value, column in zip(values, columns.values(), strict=True)]
    query = f"SELECT {', '.join([f'{scans.file_position(sources, positions)} AS source', *values])} FROM {scan}"
    try:
        if sources[0].options.null_values:
            query = _remove_markers(connection, query, columns, sources[0].options.null_values)
        connection.execute(f"CREATE TABLE {name} AS {query}")
    except duckdb.Error as error:
        raise scans.build_read_error(sources, error) from None
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {name}").fetchall()}
    columns = {key: replace(column, kind=kinds[column.identifier]) for key, column in columns.items()}
    return Table(
        name,
        sources,
        columns,
        [*known, *partition],
        lacking=scans.find_missing_columns(sources, [schema.names for schema in schemas]),
    )


def _remove_markers(
    connection: Connection, query: str, columns: Mapping[str, Column], null_values: Collection[str]
) -> str:
    """Returns a query with NULL for the texts `null_values`, also in lists."""
    kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {query}").fetchall()}
    values = []
    for column in columns.values():
        name, kind = column.identifier, kinds[column.identifier]
        if kind == "VARCHAR":
            values.append(f"{scans.present_text(name, null_values)} AS {name}")
        elif kind == "VARCHAR[]":
            present = scans.present_text("element", null_values)
            values.append(f"list_transform({name}, lambda element: {present}) AS {name}")
        else:
            values.append(name)
    return f"SELECT {', '.join(['source', *values])} FROM ({query})"


def _find_names(
    connection: Connection, sources: Sequence[InputFile], schemas: Sequence[pa.Schema], scan: str
) -> dict[str, str]:
    """Returns DuckDB's names of columns that differ in case only: it numbers the later ones.

    Raises:
        DataError: where not all files have the same columns in the same order.
    """
    for source, schema in zip(sources, schemas, strict=True):
        if schema.names != schemas[0].names:
            (one, other, *_), *_ = scans.find_case_conflicts(
                {name: None for each in schemas for name in each.names}, scans.is_usable_name
            )
            raise DataError(
                f"{source.name}: columns {one!r} and {other!r} differ in case only, and {sources[0].name} has other "
                "columns; rename one of the two"
            )
    described = connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
    return dict(zip(schemas[0].names, (str(name) for name, *_ in described), strict=False))


def find_type_conflicts(
    sources: Sequence[InputFile], schemas: Sequence[pa.Schema], wanted: Wanted
) -> Iterator[tuple[InputFile, str]]:
    """Yields files with another type for a column than the first file that has it, with an error line each.

    A decimal of more than 38 digits is an error too: DuckDB reads it as a double, which loses digits.
    """
    first: dict[str, tuple[str, pa.DataType, InputFile]] = {}
    for source, schema in zip(sources, schemas, strict=True):
        for each in schema:
            if not wanted(each.name) or pa.types.is_null(each.type):
                continue
            if pa.types.is_decimal256(each.type) and each.type.precision > _DECIMAL_DIGITS:
                yield (
                    source,
                    f"{source.name}: column {each.name!r}: invalid type {each.type} (expected a decimal of at most "
                    f"{_DECIMAL_DIGITS} digits); write it as text",
                )
            kind, known, where = first.setdefault(each.name, (_find_family(each.type), each.type, source))
            if _find_family(each.type) != kind:
                yield (
                    source,
                    f"{source.name}: column {each.name!r} is {each.type}, but {known} in {where.name}; "
                    "files of one table have one type for a column",
                )


def _find_family(kind: pa.DataType) -> str:
    """Returns the family of a type; DuckDB combines the types of a family without changing values."""
    types = pa.types
    if types.is_dictionary(kind):
        return _find_family(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"list of {_find_family(kind.value_type)}"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_string_view)
    if any(is_text(kind) for is_text in texts):
        return "text"
    return "time" if types.is_temporal(kind) else str(kind)
