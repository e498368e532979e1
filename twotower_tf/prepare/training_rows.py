"""Writes the rows of each split with their raw values, as Parquet parts in the order of time and place.

A part's rows are a range of `rows_with_history`, which has that order. Where the log is in order itself, or nearly so,
the values of a part are one short range of the log: it is read sequentially, no wide row is joined or sorted, and parts
are written in parallel. A log in another order is joined and sorted as a whole, out of core.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from twotower_tf import resources
from twotower_tf.artifacts import SPLITS, PreparedPaths
from twotower_tf.prepare.schema import Inputs
from twotower_tf.progress import Progress
from twotower_tf.sql import Connection, quote_identifier
from twotower_tf.tables import parquet_parts, timestamps
from twotower_tf.tables.cluster import Cluster
from twotower_tf.tables.duckdb_engine import fetch_row

KEYS = ("user_row", "item_row", "label", "timestamp", "history_start", "history_end")
_MICROSECOND = "microsecond"  # of the second in `timestamp`, to order rows of several splits
_VERSION = "item_version"  # of the item at the event's time, where item features change with time
_CELLS = 16 << 20  # of one part: rows times columns
_WRITERS = 2
_MOST_READ = 4  # ranges may overlap: one sort is cheaper than reading the log more often than this


@dataclass(frozen=True)
class _Part:
    """A range of `rows_with_history` and the range of the log that contains it, both inclusive."""

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
    threads: int,
    progress: Progress,
) -> None:
    """Writes `examples/{train,valid,test}/part-NNNNN.parquet` from `rows_with_history` and typed values.

    At most two parts are written at once, by as many `threads`; 0 takes one per core.
    """
    carried, joined = select_values(inputs)
    rows = count_part_rows(len(_list_stored(inputs)) + len(carried) + len(joined))
    parts = _find_parts(connection, rows)
    if not parts:
        for code, split in enumerate(SPLITS):
            progress("examples", code, len(SPLITS))
            parquet_parts.write_parts(connection, _select_split(inputs, code), paths.examples(split), rows)
        return
    for split in SPLITS:
        paths.examples(split).mkdir(parents=True)
    workers = min(_WRITERS, threads or resources.count_cpus())
    with ThreadPoolExecutor(workers) as pool:

        def write_part(part: _Part) -> None:
            with connection.cursor() as cursor:
                table = _read_part(cursor, inputs, part)
            parquet_parts.write_part(table, paths.examples(SPLITS[part.split]), part.number)

        for done, _ in enumerate(pool.map(write_part, parts)):
            progress("examples", done + 1, len(parts))
    for split in SPLITS:
        if not any(paths.examples(split).iterdir()):
            empty = connection.sql(f"{_select_split(inputs, 0)} LIMIT 0").to_arrow_table()
            parquet_parts.write_part(empty, paths.examples(split), 0)


def count_part_rows(columns: int) -> int:
    """Returns the rows of a part: a power of two, fewer where rows are wide, so that a part's memory is bounded."""
    return 1 << (min(parquet_parts.PART_ROWS, max(1 << 14, _CELLS // columns)).bit_length() - 1)


def select_values(inputs: Inputs) -> tuple[dict[str, str], dict[str, str]]:
    """Returns SQL of the raw values by column of the examples: those of the log (`e`), and of users (`t`, `g`)."""
    events = inputs.events.columns
    carried = {f"user.{column.name}": column.value(events[column.name], "e") for column in inputs.user_from_events}
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


def _select_keys(inputs: Inputs) -> str:
    seconds = timestamps.seconds_sql("p.ts")
    made = {
        "timestamp": f"{seconds} AS timestamp",
        _MICROSECOND: f"CAST(p.ts - {timestamps.MICROSECONDS} * {seconds} AS INTEGER) AS {_MICROSECOND}",
        _VERSION: f"p.item_at AS {_VERSION}",
    }
    return ", ".join(made.get(name, f"p.{name}") for name in _list_stored(inputs))


def _join(inputs: Inputs) -> str:
    joins = "LEFT JOIN user_table_values AS t ON t.place = p.user_at " if inputs.user_from_table else ""
    if inputs.user_from_table and inputs.continued:
        joins += "LEFT JOIN carried_users AS g ON g.user_row = p.user_row "
    return joins


def _select(columns: dict[str, str]) -> str:
    return ", ".join(f"{expression} AS {quote_identifier(name)}" for name, expression in columns.items())


def _select_rows(inputs: Inputs) -> str:
    """Returns SQL of the examples, with `order_ts` and `order_place` for their order."""
    carried, joined = select_values(inputs)
    selected = "".join(f", {_select(columns)}" for columns in (carried, joined) if columns)
    events = "JOIN events_values AS e ON e.place = p.place " if carried else ""
    return (
        f"SELECT p.ts AS order_ts, p.place AS order_place, {_select_keys(inputs)}{selected} "
        f"FROM rows_with_history AS p {events}{_join(inputs)}"
    )


def _select_split(inputs: Inputs, code: int) -> str:
    """Returns SQL of a split's examples in their order."""
    rows = f"{_select_rows(inputs)} WHERE p.split = {code}"
    return f"SELECT * EXCLUDE (order_ts, order_place) FROM ({rows}) ORDER BY order_ts NULLS LAST, order_place"


def _find_parts(connection: Connection, rows: int) -> list[_Part]:
    """Finds the ranges of the parts; none where the log is in another order, and on a cluster."""
    if isinstance(connection, Cluster):
        return []
    found = connection.execute(
        f"""
        WITH starts AS (SELECT split, min(rowid) AS start FROM rows_with_history GROUP BY split)
        SELECT split, (p.rowid - start) // {rows} AS number, min(p.rowid), max(p.rowid), min(place), max(place)
        FROM rows_with_history AS p JOIN starts USING (split) GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()
    parts = [_Part(*row) for row in found]
    (total,) = fetch_row(connection, "SELECT count(*) FROM rows_with_history")
    read = sum(part.highest - part.lowest + 1 for part in parts)
    return parts if read <= _MOST_READ * total else []


def _read_part(connection: Connection, inputs: Inputs, part: _Part) -> pa.Table:
    """Reads the rows of one part."""
    carried, joined = select_values(inputs)
    within = f"WHERE p.rowid BETWEEN {part.first} AND {part.last}"
    selected, order = (f", {_select(joined)}", " ORDER BY p.rowid") if joined else ("", "")
    table = connection.sql(
        f"SELECT p.place, {_select_keys(inputs)}{selected} FROM rows_with_history AS p {_join(inputs)}{within}{order}"
    ).to_arrow_table(part.last - part.first + 1)  # in one chunk: nothing is copied to make it one
    places = table.column("place").to_numpy() - part.lowest
    table = table.drop_columns(["place"])
    if not carried:
        return table
    log = connection.sql(
        f"SELECT {_select(carried)} FROM events_values AS e WHERE e.place BETWEEN {part.lowest} AND {part.highest}"
    ).to_arrow_table(part.highest - part.lowest + 1)
    if log.num_rows != len(places) or not np.array_equal(places, np.arange(len(places))):
        log = log.take(places)
    for position, name in enumerate(log.schema.names):
        table = table.append_column(name, log.column(position))
    return table.select([*table.schema.names[: len(_list_stored(inputs))], *carried, *joined])
