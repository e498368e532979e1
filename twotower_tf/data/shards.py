"""Query results as files, in the order of the query and cut at fixed row counts.

DuckDB hands over Arrow batches; how large they are depends on threads and memory. Cutting them anew makes the files'
bytes a function of the rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

PART_ROWS = 1 << 20
_BATCH = 1 << 16


def tables(connection: duckdb.DuckDBPyConnection, query: str, rows: int = PART_ROWS) -> Iterator[pa.Table]:
    """The query's result in tables of exactly `rows` rows, the last one excepted; none where it is empty."""
    reader = connection.sql(query).to_arrow_reader(_BATCH)
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in reader:
        pending.append(batch)
        held += batch.num_rows
        while held >= rows:
            table = pa.Table.from_batches(pending, reader.schema)
            yield table.slice(0, rows)
            pending = table.slice(rows).to_batches()
            held -= rows
    if held:
        yield pa.Table.from_batches(pending, reader.schema)


def write_parts(connection: duckdb.DuckDBPyConnection, query: str, directory: Path) -> int:
    """Writes `part-NNNNN.parquet` files (at least one, perhaps without rows) and returns the number of rows."""
    directory.mkdir(parents=True)
    total = 0
    for part, table in enumerate(tables(connection, query)):
        pq.write_table(table, directory / f"part-{part:05d}.parquet")
        total += table.num_rows
    if not total:
        schema = connection.sql(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table().schema
        pq.write_table(schema.empty_table(), directory / "part-00000.parquet")
    return total


def write_table(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Writes one Parquet file."""
    schema = connection.sql(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table().schema
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables(connection, query):
            writer.write_table(table)


def write_array(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, dtype: npt.DTypeLike, length: int
) -> None:
    """Writes the single column of a query as a `.npy` file of `length` values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not length:
        np.save(path, np.empty(0, dtype))
        return
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=(length,))
    start = 0
    for table in tables(connection, query):
        array[start : start + table.num_rows] = table.column(0).to_numpy()
        start += table.num_rows
    array.flush()
