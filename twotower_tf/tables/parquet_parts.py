"""Writes query results as files, in the order of the query and split at fixed row counts.

The size of DuckDB's Arrow batches depends on threads and memory. Splitting them again makes the bytes of the files a
function of the rows alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower_tf.sql import Connection
from twotower_tf.tables.arrow_numbers import view_as_numpy
from twotower_tf.tables.cluster import Cluster
from twotower_tf.threads import map_ahead

PART_ROWS = 1 << 18
WRITERS = 2  # parts that are written at a time
_BATCH = 1 << 16
_DICTIONARY_BYTES = 1 << 26
_SAMPLE = 1 << 14  # first values of a part, by which texts are written as a dictionary or one by one
_MOST_DISTINCT = 0.25  # of them


def stream_tables(connection: Connection, query: str, rows: int = PART_ROWS) -> Iterator[pa.Table]:
    """Yields the query's result in tables of exactly `rows` rows, except the last; none where it is empty."""
    reader = connection.sql(query).to_arrow_reader(_BATCH)
    return regroup_batches(reader, rows)


def regroup_batches(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yields the same rows in tables of exactly `rows` rows, except the last; none where there are no rows."""
    groups = RowGroups(rows)
    for batch in batches:
        yield from groups.add(pa.Table.from_batches([batch]))
    yield from groups.rest()


class RowGroups:
    """Collects tables into tables of exactly `rows` rows."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._pending: list[pa.Table] = []
        self._held = 0

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yields the tables that are full with these rows."""
        while self._held + table.num_rows >= self._rows:
            taken = self._rows - self._held
            full, self._pending, self._held = [*self._pending, table.slice(0, taken)], [], 0
            yield pa.concat_tables(full)
            table = table.slice(taken)
        if table.num_rows:
            self._pending.append(table)
            self._held += table.num_rows

    def rest(self) -> Iterator[pa.Table]:
        """Yields the rows that are left, where there are any."""
        if self._held:
            yield pa.concat_tables(self._pending)
            self._pending, self._held = [], 0


def write_part(table: pa.Table, directory: Path, number: int) -> None:
    """Writes `part-NNNNN.parquet`, one row group.

    Texts have one dictionary each, so that readers get each distinct value once; but where most differ, a dictionary
    costs several times what it saves. Whole numbers are written as differences in as few bits as they need.
    """
    table = table.combine_chunks()  # chunk boundaries would change the pages
    pq.write_table(
        table,
        directory / f"part-{number:05d}.parquet",
        row_group_size=max(1, table.num_rows),
        use_dictionary=[name for name in table.schema.names if _repeats(table[name])],
        column_encoding={
            each.name: "DELTA_BINARY_PACKED"
            for each in table.schema
            if pa.types.is_int32(each.type) or pa.types.is_int64(each.type)
        },
        dictionary_pagesize_limit=_DICTIONARY_BYTES,
        write_statistics=False,  # of texts they cost as much as the writing
    )


def _repeats(column: pa.ChunkedArray) -> bool:
    """Tests whether a column has texts of which many are equal."""
    sample = column.slice(0, _SAMPLE)
    return bool(pa.types.is_string(column.type) and pc.count_distinct(sample).as_py() <= _MOST_DISTINCT * len(sample))


def write_parts(connection: Connection, query: str, directory: Path, rows: int = PART_ROWS) -> None:
    """Writes a query's rows in order as `part-NNNNN.parquet` files of `rows` rows, at least one."""
    if isinstance(connection, Cluster):
        connection.write_parts(query, directory)
        return
    directory.mkdir(parents=True)
    reader = connection.sql(query).to_arrow_reader(_BATCH)
    parts = enumerate(regroup_batches(reader, rows))
    written = sum(1 for _ in map_ahead(lambda part: write_part(part[1], directory, part[0]), parts, WRITERS))
    if not written:
        write_part(reader.schema.empty_table(), directory, 0)


def write_table(connection: Connection, query: str, path: Path) -> None:
    """Writes one Parquet file."""
    reader = connection.sql(query).to_arrow_reader(_BATCH)
    with pq.ParquetWriter(path, reader.schema) as writer:
        for table in regroup_batches(reader, PART_ROWS):
            writer.write_table(table)


def write_array(connection: Connection, query: str, path: Path, dtype: npt.DTypeLike, length: int) -> None:
    """Writes the single column of a query as a `.npy` file of `length` values."""
    write_arrays(connection, query, {path: dtype}, length)


def write_arrays(connection: Connection, query: str, files: Mapping[Path, npt.DTypeLike], length: int) -> None:
    """Writes each column of a query as a `.npy` file of `length` values; `files` are in the order of the columns."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_array(path, dtype, (length,))) for path, dtype in files.items()]
        for table in stream_tables(connection, query) if length else ():
            for file, column, dtype in zip(opened, table.columns, files.values(), strict=True):
                file.write(np.ascontiguousarray(view_as_numpy(column), dtype).data)


def open_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> IO[bytes]:
    """Opens a `.npy` file and writes its header; the caller writes the values, in order.

    It is not memory-mapped: the pages of a mapped file count as the process's memory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file
