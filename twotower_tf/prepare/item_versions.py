"""Computes the versions of items whose feature values change with time.

Positives, negatives, validation and test all read an item's values from its versions, as of a time, by one rule. So the
values of positives and negatives are equally exact in time, and a column that changes with time separates the two only
where users do.

- A column of the item table, with `items_time`: the latest row at or before the time; missing before the first row. A
  row must contain only what was known at its time.
- A column of the log: the value of the item's latest event strictly before the time, since an event may contain its own
  effect (a counter of clicks). Before the item's first event its values are those of that event: attributes that never
  change are known from the beginning. An item without an event has the item table's value. Values of held-out events do
  not enter training rows.

A version equal to the one before it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twotower_tf.prepare import ordered_rows
from twotower_tf.prepare.catalogue import PREVIOUS_EVENT
from twotower_tf.prepare.ordered_rows import AsOfJoin
from twotower_tf.prepare.schema import FeatureColumn, Inputs
from twotower_tf.sql import Connection, quote_identifier
from twotower_tf.tables.duckdb_engine import drop_table, fetch_row
from twotower_tf.tables.input_table import Column

START = -(1 << 62)  # time from which an item's first version is valid
_PREVIOUS = -1  # the place of a report of the previous run


def create_item_versions(
    connection: Connection, inputs: Inputs, previous: Mapping[str, Column] | None, *, timed: bool
) -> None:
    """Creates `item_versions`: item row (`version_of`), `since`, number in that order (`place`), values `v0`, `v1`, ...

    `since` is in epoch microseconds; the values are of `inputs.item_as_of`. Those of `previous_items`, whose columns
    are `previous`, are valid until a newer one is known. `timed` says whether rows of the item table are valid from a
    time.
    """
    item_columns = inputs.items.columns if inputs.items is not None else {}
    table = inputs.items if any(column.name in item_columns for column in inputs.item_as_of) else None
    known = fetch_row(connection, "SELECT count(*) FROM previous_items")[0] if previous is not None else 0
    joins: list[AsOfJoin] = []
    latest = ""
    if inputs.item_from_events:
        _create_reports(connection, inputs, known)
        reported = {"reported_at": "place"} | {
            f"r{number}": f"r{number}" for number in range(len(inputs.item_from_events))
        }
        joins.append(AsOfJoin("item_reports", "item_row", "since", "item_row", "since", reported))
    if table is not None:
        rows = "item_rows" if timed else "item_latest"
        since = ", ts AS since" if timed else ""
        connection.execute(
            f"CREATE TABLE item_held AS SELECT item_row, place{since} FROM {rows} JOIN items ON id = item_id"
        )
        if timed:
            joins.append(AsOfJoin("item_held", "item_row", "since", "item_row", "since", {"held_at": "place"}))
        else:
            latest = " LEFT JOIN item_held AS h ON h.item_row = k.item_row"
    places = f"SELECT k.*{', h.place AS held_at' if latest else ''} FROM {_join(connection, joins)} AS k{latest}"
    sources = " LEFT JOIN item_table_values AS t ON t.place = p.held_at" if table is not None else ""
    listed = "p.held_at"
    if previous is not None:
        sources += " LEFT JOIN previous_items AS g ON g.item_row = p.item_row"
        if timed and table is not None:
            connection.execute("CREATE TABLE item_listed AS SELECT DISTINCT item_row FROM item_held")
            sources += " LEFT JOIN item_listed AS l ON l.item_row = p.item_row"
            listed = "l.item_row"
    values = {f"v{number}": _value(column, inputs, previous, listed) for number, column in enumerate(inputs.item_as_of)}
    selected = "".join(f", {value} AS {name}" for name, value in values.items())
    rows = f"SELECT p.item_row AS version_of, p.since{selected} FROM ({places}) AS p{sources}"
    ordered_rows.create_changes(connection, "item_versions", rows, "version_of", "since", list(values))
    if inputs.item_from_events:
        drop_table(connection, "item_reports")


def _join(connection: Connection, joins: Sequence[AsOfJoin]) -> str:
    """Returns SQL of a relation: the tables' rows as of the start of every item, and of each time of a table."""
    start = f"SELECT item_row, CAST({START} AS BIGINT) AS since FROM items"
    if len(joins) > 1:
        times = [start, *(f"SELECT item_row, since FROM {join.table}" for join in joins)]
        return ordered_rows.join_as_of(connection, f"SELECT item_row, since FROM ({' UNION '.join(times)})", joins)
    for join in joins:  # as of a time of the only table, its row is the one with that time
        columns = "".join(f", {column} AS {name}" for name, column in join.columns.items())
        nothing = "".join(f", NULL AS {name}" for name in join.columns)
        known = f"SELECT item_row FROM {join.table} WHERE since = {START}"
        start = (
            f"SELECT item_row, since{columns} FROM {join.table} UNION ALL "
            f"SELECT i.*{nothing} FROM ({start}) AS i ANTI JOIN ({known}) AS k ON k.item_row = i.item_row"
        )
    return f"({start})"


def build_versions_query(inputs: Inputs) -> str:
    """Returns SQL of the files that `Prepared.version_parts` lists."""
    values = ", ".join(
        f"v{number} AS {quote_identifier(f'item.{column.name}')}" for number, column in enumerate(inputs.item_as_of)
    )
    return f"SELECT place AS version, version_of AS item_row, since, {values} FROM item_versions ORDER BY place"


def _create_reports(connection: Connection, inputs: Inputs, known: int) -> None:
    """Creates `item_reports`: an item's values in the log, valid from the microsecond after the event.

    The first report of an item is valid from the beginning, unless a previous run knows the item (the first `known`
    rows). Test events are not reports, and validation events are only where they follow all of training, so that
    training rows see training events alone; an item without any other event has its first held-out event as a report.

    An event that is earlier than the last one of the previous run is followed by a report of that run's value.
    """
    (last,) = fetch_row(connection, "SELECT max(ts) FROM split_events WHERE split = 0")
    counted = f"coalesce(split = 0{f' OR (split = 1 AND ts > {last})' if last is not None else ''}, false)"
    events = inputs.events.columns
    values = ", ".join(
        f"{column.value(events[column.name], 'e')} AS r{number}"
        for number, column in enumerate(inputs.item_from_events)
    )
    own = "item_own_reports" if known else "item_reports"
    connection.execute(
        f"""
        CREATE TABLE item_moments AS
        SELECT item_row, counted, since, max(place) AS place
        FROM (SELECT item_row, {counted} AS counted, coalesce(ts + 1, {START}) AS since, place FROM split_events)
        GROUP BY item_row, counted, since;
        CREATE TABLE item_first AS
        SELECT item_row, bool_or(counted) AS counted, coalesce(min(since) FILTER (WHERE counted), min(since)) AS first
        FROM item_moments GROUP BY item_row;
        CREATE TABLE {own} AS
        SELECT m.item_row, m.place, {values},
               CASE WHEN m.since = f.first AND m.item_row >= {known} THEN {START} ELSE m.since END AS since
        FROM item_moments AS m JOIN item_first AS f ON f.item_row = m.item_row
        JOIN events_values AS e ON e.place = m.place
        WHERE m.counted OR (NOT f.counted AND m.since = f.first AND m.item_row >= {known})
        """
    )
    if known:
        connection.execute(f"CREATE TABLE item_reports AS SELECT * FROM {own}{_later_reports(inputs, own)}")
        drop_table(connection, own)
    drop_table(connection, "item_moments")
    drop_table(connection, "item_first")


def _later_reports(inputs: Inputs, own: str) -> str:
    """Returns SQL of reports of the previous run, for items with an event earlier than their last one there."""
    nothing = ", ".join(f"NULL AS r{number}" for number in range(len(inputs.item_from_events)))
    return f"""
        UNION ALL SELECT g.item_row, {_PREVIOUS} AS place, {nothing}, {PREVIOUS_EVENT} + 1 AS since
        FROM previous_items AS g
        JOIN (SELECT item_row, min(since) AS since FROM {own} GROUP BY item_row) AS m
        ON m.item_row = g.item_row AND m.since <= {PREVIOUS_EVENT}
        LEFT JOIN {own} AS same
        ON same.item_row = g.item_row AND same.since = {PREVIOUS_EVENT} + 1
        WHERE same.item_row IS NULL
        """


def _value(column: FeatureColumn, inputs: Inputs, previous: Mapping[str, Column] | None, listed: str) -> str:
    """Returns SQL of a column's value: that of the log, else of the item table, else of the previous run.

    `listed` is SQL that is NULL where the item table does not have the item.
    """
    table = inputs.items.columns if inputs.items is not None else {}
    value = column.value(table[column.name], "t") if column.name in table else ""
    if previous is not None and column.name in previous:
        before = f"g.{previous[column.name].identifier}"
        value = f"CASE WHEN {listed} IS NULL THEN {before} ELSE {value} END" if value else before
    if column not in inputs.item_from_events:
        return value
    reported = f"p.r{inputs.item_from_events.index(column)}"
    if previous is not None and column.name in previous:
        reported = f"CASE WHEN p.reported_at = {_PREVIOUS} THEN {before} ELSE {reported} END"
    return f"CASE WHEN p.reported_at IS NULL THEN {value} ELSE {reported} END" if value else reported
