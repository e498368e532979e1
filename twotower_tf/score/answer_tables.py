"""Writes answers as Arrow tables and files: one file per unit, whose bytes depend on its rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower_tf.errors import DataError
from twotower_tf.index.item_vectors import Ids
from twotower_tf.tables.parquet_parts import RowGroups

Format = Literal["parquet", "tsv"]

_VALUES_PER_GROUP = 1 << 21  # of one column of a row group
_ROWS_PER_GROUP = 1 << 17
_LISTED = ","  # between the values of a list in TSV

_ITEM_TEXTS = pa.list_(pa.string())  # ids, or names
_CODED = pa.list_(pa.dictionary(pa.int32(), pa.string()))  # the same, written from a dictionary of all items
ANSWERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_ids", _ITEM_TEXTS),
        ("scores", pa.list_(pa.float32())),
        ("model_version", pa.int64()),
    ]
)
VECTORS = pa.schema([("user_id", pa.string()), ("vector", pa.list_(pa.float32())), ("model_version", pa.int64())])

Floats = npt.NDArray[np.float32]


class Layout:
    """How answers lie in the output of this schema."""

    def __init__(
        self, version: int, format: Format, width: int, ids: Ids | None, names: pa.ChunkedArray | None = None
    ) -> None:
        """Chooses the columns.

        `width` is the number of values per user: k, or the vectors' dimensions. `ids` of the items are None for
        vectors; `names` of the items, in the order of `ids`, are None to leave them out.

        Raises:
            DataError: for item ids that the format cannot list.
        """
        self.schema = ANSWERS if ids is not None else VECTORS
        if names is not None:
            self.schema = ANSWERS.insert(2, pa.field("item_names", _ITEM_TEXTS))
        self._version = version
        self._format = format
        self._rows = max(1024, min(_ROWS_PER_GROUP, _VALUES_PER_GROUP // max(1, width)))
        self._ids = None if ids is None else pa.array(ids, pa.string())
        self._names = None if names is None else _distinct(names)
        if format == "tsv" and self._ids is not None:
            commas = self._ids.filter(pc.match_substring(self._ids, _LISTED))
            if len(commas):
                raise DataError(
                    f"--format=tsv: invalid item id {commas[0].as_py()!r} (expected no comma, which separates "
                    "ids); use --format=parquet"
                )

    def answers(
        self, users: pa.Array, offsets: npt.NDArray[Any], rows: npt.NDArray[np.int32], scores: Floats
    ) -> pa.Table:
        """Makes the table of users `[n]`: the answers of user i are `rows[offsets[i] : offsets[i + 1]]`, best first."""
        ends = pa.array(offsets.astype(np.int32))
        columns = {"item_ids": pa.DictionaryArray.from_arrays(pa.array(rows), self._ids)}
        if self._names is not None:
            columns["item_names"] = pa.DictionaryArray.from_arrays(
                self._names.indices.take(pa.array(rows)), self._names.dictionary
            )
        columns["scores"] = pa.array(scores)
        return self._table(users, {name: pa.ListArray.from_arrays(ends, each) for name, each in columns.items()})

    def vectors(self, users: pa.Array, vectors: Floats) -> pa.Table:
        """Makes the table of users `[n]` with their vectors, float32 `[n, vector_dim]`."""
        count, dim = vectors.shape
        ends = pa.array(np.arange(count + 1, dtype=np.int32) * dim)
        return self._table(users, {"vector": pa.ListArray.from_arrays(ends, pa.array(vectors.reshape(-1)))})

    def _table(self, users: pa.Array, columns: dict[str, pa.Array]) -> pa.Table:
        version = pa.array(np.full(len(users), self._version, np.int64))
        return pa.table({"user_id": users, **columns, "model_version": version})

    def writer(self, path: Path) -> PartWriter:
        """Writes a file of this layout."""
        return TsvWriter(path) if self._format == "tsv" else ParquetWriter(path, self.schema, self._rows)

    def plain(self, table: pa.Table) -> pa.Table:
        """Returns the table in types that every reader knows: without dictionaries; of TSV the lines, as `value`."""
        return pa.table({"value": _lines(table)}) if self._format == "tsv" else table.cast(self.schema)


def _distinct(names: pa.ChunkedArray) -> pa.DictionaryArray:
    """Codes names by a dictionary without repetitions; "" stands for an item without a name."""
    texts = pc.fill_null(names.cast(pa.string()), "")
    return pa.concat_arrays(texts.chunks).dictionary_encode()


class ParquetWriter:
    """Row groups of fixed sizes, whatever the sizes of the tables that come."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        coded = [f"{field.name}.list.element" for field in schema if field.type == _ITEM_TEXTS]
        self._writer = pq.ParquetWriter(
            path,
            pa.schema([field.with_type(_CODED if field.type == _ITEM_TEXTS else field.type) for field in schema]),
            use_dictionary=[*coded, "model_version"],
            write_statistics=False,
            store_schema=False,  # readers get texts, not our dictionaries
        )
        self._groups = RowGroups(rows)

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self._write_groups(self._groups.add(table))

    def _write_groups(self, groups: Iterator[pa.Table]) -> None:
        for group in groups:
            whole = group.combine_chunks()  # in one chunk: where chunks end would show in the pages
            self._writer.write_table(whole, row_group_size=max(1, whole.num_rows))

    def close(self) -> None:
        """Writes what is left and the footer."""
        self._write_groups(self._groups.rest())
        self._writer.close()


class TsvWriter:
    """Lines of tab-separated fields; the values of a list are joined by commas. No header."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        if not table.num_rows:
            return
        lines = _lines(table)
        whole = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), "\n")
        self._file.write(whole[0].as_py().encode() + b"\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


PartWriter = ParquetWriter | TsvWriter


def _lines(table: pa.Table) -> pa.Array:
    return pc.binary_join_element_wise(*(_field(column.combine_chunks()) for column in table.columns), "\t")


def _field(column: pa.Array) -> pa.Array:
    if not pa.types.is_list(column.type):
        return column.cast(pa.string())
    start, stop = column.offsets[0].as_py(), column.offsets[-1].as_py()
    values = column.values.slice(start, stop - start)
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values.cast(pa.string())
    offsets = pc.subtract(column.offsets, pa.scalar(start, pa.int32()))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, values), _LISTED)


def name_part(number: int, format: Format) -> str:
    """Returns the name of a unit's file."""
    return f"part-{number:06d}.{format}"
