"""Writes the rows of each split with their raw values, as Parquet parts in the order of time and place.

A part's rows are a range of the events in that order; their histories and item versions are found as the part is
written (see `event_lookup`). Where the log is in order itself, or nearly so, the values of a part are one short range
of the log: it is read sequentially, no wide row is joined or sorted, and parts are written in parallel. A log in
another order is joined and sorted as a whole, out of core. On a cluster SQL finds histories and versions, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from twotower_tf import resources
from twotower_tf.artifacts import SPLITS, PreparedPaths
from twotower_tf.prepare import histories
from twotower_tf.prepare.event_lookup import HistoryLookup, VersionLookup
from twotower_tf.prepare.schema import Inputs
from twotower_tf.progress import Progress
from twotower_tf.sql import Connection, quote_identifier
from twotower_tf.tables import parquet_parts, timestamps
from twotower_tf.tables.arrow_numbers import view_as_arrow, view_as_numpy
from twotower_tf.tables.cluster import Cluster
from twotower_tf.tables.duckdb_engine import drop_table

KEYS = ("user_row", "item_row", "label", "timestamp", "history_start", "history_end")
_MICROSECOND = "microsecond"  # of the second in `timestamp`, to order rows of several splits
_VERSION = "item_version"  # of the item at the event's time, where item features change with time
_FOUND = ("history_start", "history_end", _VERSION)
_NO_TIME = -(1 << 62)  # of an event without a time, which is before all positives
_CELLS = 16 << 20  # of one part: rows times columns
_MOST_READ = 4  # ranges may overlap: one sort is cheaper than reading the log more often than this


@dataclass(frozen=True)
class _Part:
    """A range of the events and the range of the log that contains it, both inclusive."""

    split: int
    number: int
    first: int
    last: int
    lowest: int
    highest: int


def write_training_rows(
    connection: Connection,
    inputs: Inputs,
    paths: PreparedPaths,
    versions: Mapping[str, bool],
    threads: int,
    progress: Progress,
    *,
    timed: bool,
) -> None:
    """Writes `examples/{train,valid,test}/part-NNNNN.parquet` from `split_events` and typed values.

    Args:
        connection: has the tables.
        inputs: the input tables.
        paths: of the preparation.
        versions: sides whose versions are joined (see `histories.create_rows_with_history`).
        threads: write, at most two parts at once; 0 takes one per core.
        progress: called for each part.
        timed: whether the log has an order, so that a history ends before its event.
    """
    if isinstance(connection, Cluster):
        histories.create_rows_with_history(connection, timed, versions, inputs.keys)
        for code, split in enumerate(SPLITS):
            progress("examples", code, len(SPLITS))
            rows = f"{_select_rows(inputs, 'rows_with_history', _list_stored(inputs))} WHERE p.split = {code}"
            connection.write_parts(_sort_rows(rows), paths.examples(split))
        return
    events = histories.create_ordered_events(connection, versions)
    writer = _PartWriter(connection, inputs, paths, events, timed=timed)
    writer.write(min(parquet_parts.WRITERS, threads or resources.count_cpus()), progress)
    if events != "split_events":
        drop_table(connection, events)


class _PartWriter:
    """Writes the parts from a table of events in the order of split, time and place."""

    def __init__(
        self, connection: Connection, inputs: Inputs, paths: PreparedPaths, events: str, *, timed: bool
    ) -> None:
        self._connection, self._inputs, self._paths, self._events = connection, inputs, paths, events
        self._carried, self._joined = select_values(inputs)
        self._stored = _list_stored(inputs)
        self._read = ("place", "ts", *(name for name in self._stored if name not in _FOUND))
        self._rows = count_part_rows(len(self._stored) + len(self._carried) + len(self._joined))
        self._histories = HistoryLookup(connection, paths, timed=timed)
        self._versions = VersionLookup(connection) if inputs.item_as_of else None

    def write(self, workers: int, progress: Progress) -> None:
        """Writes all parts; a split without a row has one that is empty."""
        for split in SPLITS:
            self._paths.examples(split).mkdir(parents=True)
        parts = self._find_parts()
        if parts:
            with ThreadPoolExecutor(workers) as pool:
                for done, _ in enumerate(pool.map(self._write_part, parts)):
                    progress("examples", done + 1, len(parts))
        for code, split in enumerate(SPLITS):
            rows = _sort_rows(f"{_select_rows(self._inputs, self._events, self._read)} WHERE p.split = {code}")
            if not parts:
                progress("examples", code, len(SPLITS))
                for number, table in enumerate(parquet_parts.stream_tables(self._connection, rows, self._rows)):
                    parquet_parts.write_part(self._complete(table, split), self._paths.examples(split), number)
            if not any(self._paths.examples(split).iterdir()):
                empty = self._connection.sql(f"{rows} LIMIT 0").to_arrow_table()
                parquet_parts.write_part(self._complete(empty, split), self._paths.examples(split), 0)

    def _find_parts(self) -> list[_Part]:
        """Finds the ranges of the parts; none where the log is in another order."""
        found = self._connection.execute(
            f"""
            WITH starts AS (SELECT split, min(rowid) AS start FROM {self._events} GROUP BY split)
            SELECT split, (p.rowid - start) // {self._rows} AS number,
                   min(p.rowid), max(p.rowid), min(place), max(place)
            FROM {self._events} AS p JOIN starts USING (split) GROUP BY ALL ORDER BY ALL
            """
        ).fetchall()
        parts = [_Part(*row) for row in found]
        total = sum(part.last - part.first + 1 for part in parts)
        read = sum(part.highest - part.lowest + 1 for part in parts)
        return parts if read <= _MOST_READ * total else []

    def _write_part(self, part: _Part) -> None:
        with self._connection.cursor() as cursor:
            table = self._read_part(cursor, part)
        split = SPLITS[part.split]
        parquet_parts.write_part(self._complete(table, split), self._paths.examples(split), part.number)

    def _read_part(self, connection: Connection, part: _Part) -> pa.Table:
        """Reads the rows of one part."""
        within = f"WHERE p.rowid BETWEEN {part.first} AND {part.last}"
        selected, order = (f", {_select(self._joined)}", " ORDER BY p.rowid") if self._joined else ("", "")
        table = connection.sql(
            f"SELECT {_select_keys(self._read)}{selected} FROM {self._events} AS p {_join(self._inputs)}{within}{order}"
        ).to_arrow_table(part.last - part.first + 1)  # in one chunk: nothing is copied to make it one
        if not self._carried:
            return table
        places = view_as_numpy(table["place"]) - part.lowest
        log = connection.sql(
            f"SELECT {_select(self._carried)} FROM events_values AS e "
            f"WHERE e.place BETWEEN {part.lowest} AND {part.highest}"
        ).to_arrow_table(part.highest - part.lowest + 1)
        if log.num_rows != len(places) or not np.array_equal(places, np.arange(len(places))):
            log = log.take(view_as_arrow(places))
        for name in log.schema.names:
            table = table.append_column(name, log[name])
        return table

    def _complete(self, table: pa.Table, split: str) -> pa.Table:
        """Adds histories and item versions to rows of a split; returns the columns of the examples."""
        times = view_as_numpy(table["ts"])
        which = "seen" if split == "test" else "train"
        start, end = self._histories.find(which, view_as_numpy(table["user_row"]), times)
        found = {"history_start": start, "history_end": end}
        if self._versions is not None:
            known = np.where(times == _NO_TIME, 0, times)
            found[_VERSION] = self._versions.find(view_as_numpy(table["item_row"]), known)
        names = [*self._stored, *self._carried, *self._joined]
        return pa.table({name: view_as_arrow(found[name]) if name in found else table[name] for name in names})


def count_part_rows(columns: int) -> int:
    """Returns the rows of a part: a power of two, fewer where rows are wide, so that a part's memory is bounded."""
    return 1 << (min(parquet_parts.PART_ROWS, max(1 << 14, _CELLS // columns)).bit_length() - 1)


def select_values(inputs: Inputs) -> tuple[dict[str, str], dict[str, str]]:
    """Returns SQL of the raw values by column of the examples: those of the log (`e`), and of users (`t`, `g`)."""
    events = inputs.events.columns
    carried = {f"user.{column.name}": column.value(events[column.name], "e") for column in inputs.user_as_of}
    joined: dict[str, str] = {}
    if inputs.users is not None:
        users = inputs.users.columns
        for column in inputs.user_from_table:
            name, value = f"user.{column.name}", column.value(users[column.name], "t")
            joined[name] = f"coalesce({value}, g.{quote_identifier(name)})" if inputs.continued else value
    return carried, joined


def _list_stored(inputs: Inputs) -> tuple[str, ...]:
    """Returns the names of the columns before the raw values."""
    return (*KEYS, *inputs.keys, _MICROSECOND, *([_VERSION] if inputs.item_as_of else []))


def _select_keys(names: Sequence[str]) -> str:
    seconds = timestamps.seconds_sql("p.ts")
    made = {
        "timestamp": f"{seconds} AS timestamp",
        _MICROSECOND: f"CAST(p.ts - {timestamps.MICROSECONDS} * {seconds} AS INTEGER) AS {_MICROSECOND}",
        "ts": f"coalesce(p.ts, {_NO_TIME}) AS ts",
        _VERSION: f"p.item_at AS {_VERSION}",
    }
    return ", ".join(made.get(name, f"p.{name}") for name in names)


def _join(inputs: Inputs) -> str:
    joins = "LEFT JOIN user_table_values AS t ON t.place = p.user_at " if inputs.user_from_table else ""
    if inputs.user_from_table and inputs.continued:
        joins += "LEFT JOIN carried_users AS g ON g.user_row = p.user_row "
    return joins


def _select(columns: dict[str, str]) -> str:
    return ", ".join(f"{expression} AS {quote_identifier(name)}" for name, expression in columns.items())


def _select_rows(inputs: Inputs, table: str, names: Sequence[str]) -> str:
    """Returns SQL of a table's rows and their raw values, with `order_ts` and `order_place` for their order."""
    carried, joined = select_values(inputs)
    selected = "".join(f", {_select(columns)}" for columns in (carried, joined) if columns)
    events = "JOIN events_values AS e ON e.place = p.place " if carried else ""
    return (
        f"SELECT p.ts AS order_ts, p.place AS order_place, {_select_keys(names)}{selected} "
        f"FROM {table} AS p {events}{_join(inputs)}"
    )


def _sort_rows(rows: str) -> str:
    return f"SELECT * EXCLUDE (order_ts, order_place) FROM ({rows}) ORDER BY order_ts NULLS LAST, order_place"
