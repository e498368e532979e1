"""Finds an event's history and the version of its item by search, batch by batch of events.

A user's positives are sorted by time, and so are an item's versions. Each is one whole number, made of its key and of
the place of its time among all times; a search of numbers that ascend is several times as fast as one that jumps, so
that a batch is sorted first. The numbers are files that are mapped: their pages can leave memory. Where they are small,
such as those of a catalogue's versions by the hour, a table of counts takes the place of the search.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from twotower_tf.artifacts import PreparedPaths
from twotower_tf.sql import Connection
from twotower_tf.tables import duckdb_engine, parquet_parts
from twotower_tf.tables.arrow_numbers import view_as_numpy
from twotower_tf.tables.duckdb_engine import fetch_row

NO_TIME = (1 << 63) - 1  # of a positive without a time, which is after all events

_TABLE = 1 << 22  # numbers that a table may have

Ints = npt.NDArray[np.int64]


class AsOfSearch:
    """Rows sorted by key and time, for counts of those before a key and a time."""

    def __init__(self, connection: Connection, table: str, key: str, time: str, order: str, path: Path) -> None:
        """Writes the rows' numbers.

        Args:
            connection: of DuckDB.
            table: the rows.
            key: SQL of their key, a whole number of at least 0.
            time: SQL of their time, BIGINT.
            order: SQL of their order.
            path: a new directory.
        """
        length, times = fetch_row(connection, f"SELECT count(*), count(DISTINCT {time}) FROM {table}")
        distinct = f"SELECT DISTINCT {time} AS time FROM {table} ORDER BY time"
        parquet_parts.write_array(connection, distinct, path / "times.npy", np.int64, times)
        self._times: Ints = np.load(path / "times.npy", mmap_mode="r")
        rows = f"SELECT CAST({key} AS BIGINT) AS key, {time} AS time FROM {table} ORDER BY {order}"
        with parquet_parts.open_array(path / "numbers.npy", np.int64, (length,)) as file:
            for each in parquet_parts.stream_tables(connection, rows):
                keys, ranks = view_as_numpy(each["key"]), np.searchsorted(self._times, view_as_numpy(each["time"]))
                file.write(self._number(keys, ranks).data)
        self._numbers: Ints = np.load(path / "numbers.npy", mmap_mode="r")
        self._counts: Ints | None = None  # of the rows before each number
        if not length or self._numbers[-1] < _TABLE:
            self._counts = np.concatenate([[0], np.cumsum(np.bincount(self._numbers))])

    def _number(self, keys: Ints, ranks: Ints) -> Ints:
        return np.ascontiguousarray(keys * np.int64(len(self._times) + 1) + ranks)

    def count_before(self, keys: Ints, times: Ints, *, through: bool) -> Ints:
        """Counts the rows before keys and times `[n]`; those at the time itself are counted where `through`."""
        numbers = self._number(keys, np.searchsorted(self._times, times, side="right" if through else "left"))
        if self._counts is not None:
            counts: Ints = self._counts[np.minimum(numbers, len(self._counts) - 1)]
            return counts
        order = np.argsort(numbers)
        found = np.empty(len(numbers), np.int64)
        found[order] = np.searchsorted(self._numbers, numbers[order])
        return found


class HistoryLookup:
    """Histories as parts of the arrays `train` and `seen` (see `histories`)."""

    def __init__(self, connection: Connection, paths: PreparedPaths, *, timed: bool) -> None:
        """Sorts `positives`; `timed` says whether the log has an order, so that a history ends before its event."""
        self._starts = {which: np.load(paths.sequence_users(which)) for which in ("train", "seen")}
        self._search: AsOfSearch | None = None
        if not timed:
            return
        work = duckdb_engine.find_work_directory(connection) / "positives"
        order = "user_row, ts NULLS LAST, place"
        self._search = AsOfSearch(connection, "positives", "user_row", f"coalesce(ts, {NO_TIME})", order, work)
        self._trained = _count_trained(connection, int(self._starts["seen"][-1]), order, work / "trained.npy")

    def find(self, which: str, users: Ints, times: Ints) -> tuple[Ints, Ints]:
        """Finds the parts `[n]` for users `[n]` before times `[n]`, from the first place to one after the last."""
        starts = self._starts[which]
        if self._search is None:
            return starts[users], starts[users + 1]
        ends = self._search.count_before(users, times, through=False)
        if which == "train":
            ends = self._trained[ends]
        return starts[users], ends


class VersionLookup:
    """Numbers of the items' versions in `item_versions`, by time."""

    def __init__(self, connection: Connection) -> None:
        work = duckdb_engine.find_work_directory(connection) / "versions"
        self._search = AsOfSearch(connection, "item_versions", "version_of", "since", "place", work)

    def find(self, items: Ints, times: Ints) -> Ints:
        """Finds the last version of items `[n]` that begins at or before times `[n]`; an item's first always does."""
        return self._search.count_before(items, times, through=True) - 1


def _count_trained(connection: Connection, length: int, order: str, path: Path) -> Ints:
    """Counts the training positives before each place of `seen`, which are places in `train`; `[length + 1]`."""
    with parquet_parts.open_array(path, np.int64, (length + 1,)) as file:
        counted = np.zeros(1, np.int64)
        file.write(counted.data)
        query = f"SELECT CAST(split = 0 AS TINYINT) AS trains FROM positives ORDER BY {order}"
        for table in parquet_parts.stream_tables(connection, query):
            counted = counted[-1] + np.cumsum(view_as_numpy(table["trains"]), dtype=np.int64)
            file.write(counted.data)
    counts: Ints = np.load(path, mmap_mode="r")
    return counts
