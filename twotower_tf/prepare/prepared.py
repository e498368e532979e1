"""Reads `prepared/`, for features, sampling, training, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf import artifacts
from twotower_tf.artifacts import PreparedPaths, RunPaths
from twotower_tf.errors import ArtifactError
from twotower_tf.prepare import preparation, schema, statistics

KEYS = {
    "user_row": np.int32,
    "item_row": np.int32,
    "label": np.int8,
    "timestamp": np.int64,
    "microsecond": np.int32,
    "history_start": np.int64,
    "history_end": np.int64,
    "rejected": np.bool_,
    "weight": np.float32,
    "list": np.int64,
    "position": np.float64,
}
_VERSION = "item_version"
_ROWS_PER_READ = 1 << 16


@dataclass(frozen=True)
class Prepared:
    """The output of a preparation; its statistics are of the training rows, by side and feature name."""

    paths: PreparedPaths
    manifest: dict[str, Any]
    statistics: dict[str, Any]

    @classmethod
    def open(cls, run_dir: str | Path) -> Prepared:
        """Opens `prepared/` of a run directory.

        Raises:
            ArtifactError: where it is missing, unfinished, or of another schema version.
        """
        paths = PreparedPaths(RunPaths(Path(run_dir)).prepared)
        if not paths.manifest.is_file():
            raise ArtifactError(f"{paths.root}: no finished preparation; run `twotower prepare` first")
        again = "run `twotower prepare` again"
        manifest = artifacts.read_json(paths.manifest, "prepared directory", preparation.SCHEMA_VERSION, again)
        numbers = artifacts.read_json(paths.statistics, "prepared directory", statistics.SCHEMA_VERSION)
        return cls(paths, manifest, numbers)

    @property
    def num_items(self) -> int:
        return int(self.manifest["items"])

    @property
    def num_users(self) -> int:
        return int(self.manifest["users"])

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the catalogue, by default with all columns of a bundle's; row i is the item with `item_row` i."""
        if columns is None:
            columns = [name for name in pq.read_schema(self.paths.items).names if name != schema.LAST_MICROSECOND]
        return read_columns(self.paths.items, columns)

    def item_ids(self) -> npt.NDArray[np.object_]:
        """Reads the items' ids by row, [num_items] str."""
        return _read_texts(self.paths.items, "item_id")

    def user_ids(self) -> npt.NDArray[np.object_]:
        """Reads the users' ids by row, [num_users] str."""
        return _read_texts(self.paths.users, "user_id")

    def train_count(self) -> npt.NDArray[np.int64]:
        """Reads the training positives of each item, including previous runs (`--since`), [num_items] int64."""
        table = read_columns(self.paths.items, ["train_count"])
        return np.asarray(table.column(0).to_numpy(), dtype=np.int64)

    def num_rows(self, split: str) -> int:
        """Returns the number of rows of `train`, `valid` or `test`."""
        return int(self.manifest["splits"][split]["rows"])

    def num_positives(self, split: str) -> int:
        """Returns the number of positives of a split."""
        return int(self.manifest["splits"][split]["positives"])

    def parts(self, split: str) -> list[Path]:
        """Lists the split's Parquet files, in order."""
        return sorted(self.paths.examples(split).glob("part-*.parquet"))

    def columns(self, split: str, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Reads key columns of a split as arrays `[num_rows]`: columns of `manifest["keys"]`, or `microsecond`.

        `user_row`, `item_row`, `label` (1 for a positive), `timestamp` (epoch seconds, 0 where unknown), `microsecond`
        (of that second), `history_start` and `history_end` (a slice of `sequence`) are always there. Where the
        configuration names them: `rejected` (bool, on rows with label 0), `weight` (at least 0), `list` (a number per
        list, -1 for none) and `position` in it (NaN for none).
        """
        tables = [read_columns(path, names) for path in self.parts(split)]
        table = pa.concat_tables(tables)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in names:
            column = table.column(name)
            if name in ("timestamp", "microsecond"):
                column = column.fill_null(0)
            arrays[name] = np.asarray(column.to_numpy(), dtype=KEYS[name])
        return arrays

    def read_rows(
        self, split: str, columns: Sequence[str] | None = None, rows: npt.NDArray[np.integer] | None = None
    ) -> pa.Table:
        """Reads rows of a split with raw values: their own, and those of their users and items' versions.

        Args:
            split: `train`, `valid` or `test`.
            columns: names of keys, and `user.NAME` and `item.NAME` of values; by default all.
            rows: `[n]`, in any order; by default all.
        """
        elsewhere = [
            ("user_row", [self.paths.users], [f"user.{name}" for name in self.manifest["user_columns_by_row"]]),
            (_VERSION, self.version_parts(), [f"item.{name}" for name in self.manifest["item_columns_as_of"]]),
        ]
        if columns is None:
            own = [name for name in pq.read_schema(self.parts(split)[0]).names if name != _VERSION]
            columns = [*own, *(name for _, _, names in elsewhere for name in names)]
        looked_up = [(number, paths, [name for name in names if name in columns]) for number, paths, names in elsewhere]
        others = {name for _, _, names in looked_up for name in names}
        numbers = [number for number, _, names in looked_up if names]
        own = list(dict.fromkeys([*(name for name in columns if name not in others), *numbers]))
        table = take_rows(self.parts(split), own, rows)
        for number, paths, names in looked_up:
            if names:
                found = take_rows(paths, names, table[number].to_numpy())
                for name in names:
                    table = table.append_column(name, found[name])
        return table.select(list(columns))

    def version_parts(self) -> list[Path]:
        """Lists the Parquet files of the items' versions, in order; none where no item feature changes with time.

        Rows are ordered by item and time: `version` (their number), `item_row`, `since` (the epoch microsecond from
        which the version holds, of an item's first version the least that is used), raw values, `item.NAME` each.
        """
        return sorted(self.paths.item_versions.glob("part-*.parquet"))

    def coded_part(self, path: Path, columns: Sequence[str]) -> pa.Table:
        """Reads columns of one of `parts` or `version_parts`, texts that were written as dictionaries as such."""
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
        chunks = [group.column(place) for group in groups[:1] for place in range(group.num_columns)]
        names = [each.path_in_schema for each in chunks if "RLE_DICTIONARY" in each.encodings]
        return read_columns(path, columns, read_dictionary=names)

    def sequence(self, which: str) -> npt.NDArray[np.int32]:
        """Maps the item rows of positives, user by user in time order, int32; `train` or `seen`.

        Both include all positives of previous runs (`--since`); the training split has the new rows alone.
        """
        array: npt.NDArray[np.int32] = np.load(self.paths.sequences(which), mmap_mode="r")
        return array

    def sequence_times(self, which: str) -> npt.NDArray[np.int64]:
        """Maps the epoch seconds of the same positives, int64, 0 without a time; see `PreparedPaths.sequence_times`."""
        array: npt.NDArray[np.int64] = np.load(self.paths.sequence_times(which), mmap_mode="r")
        return array

    def sequence_users(self, which: str) -> npt.NDArray[np.int64]:
        """Reads the start of each user's part of the sequence, [num_users + 1] int64."""
        array: npt.NDArray[np.int64] = np.load(self.paths.sequence_users(which))
        return array


def read_columns(path: Path, columns: Sequence[str], read_dictionary: Sequence[str] = ()) -> pa.Table:
    """Reads columns of one Parquet file, in their order; those of `read_dictionary` as dictionaries.

    `pq.read_table` would import pyarrow's data sets and pandas, which takes as long as reading a million rows.
    """
    with pq.ParquetFile(path, read_dictionary=list(read_dictionary)) as file:
        found = file.read(list(columns), use_threads=False)
    return found.select(list(columns))  # for "a", also "a.b" is read


def take_rows(paths: Sequence[Path], columns: Sequence[str], rows: npt.NDArray[np.integer] | None = None) -> pa.Table:
    """Reads rows of Parquet files that follow each other, of row groups that have some, as far as the last of them.

    Args:
        paths: of the files, one at least.
        columns: their names.
        rows: `[n]`, counted from the first file's first, in any order; by default all.
    """
    if rows is None:
        return pa.concat_tables([read_columns(path, columns) for path in paths])
    wanted, places = np.unique(rows, return_inverse=True)
    found = [pq.read_schema(paths[0]).empty_table().select(list(columns))]
    start = 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                first, last = np.searchsorted(wanted, [start, stop])
                found += _take_of_group(file, group, list(columns), wanted[first:last] - start)
                start = stop
    return pa.concat_tables(found).take(places)


def _take_of_group(
    file: pq.ParquetFile, group: int, columns: list[str], rows: npt.NDArray[np.integer]
) -> Iterator[pa.Table]:
    """Yields ascending rows `[n]` of a row group."""
    start = 0
    batches = file.iter_batches(_ROWS_PER_READ, [group], columns, use_threads=False) if len(rows) else ()
    for batch in batches:
        first, last = np.searchsorted(rows, [start, start + batch.num_rows])
        yield pa.Table.from_batches([batch]).select(columns).take(rows[first:last] - start)
        if last == len(rows):
            return
        start += batch.num_rows


def _read_texts(path: Path, column: str) -> npt.NDArray[np.object_]:
    texts = read_columns(path, [column]).column(0)
    return np.asarray(texts.to_numpy(zero_copy_only=False), dtype=object)
