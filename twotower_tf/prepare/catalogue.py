"""Builds the user and item tables, numbered in the order of their ids.

The catalogue has every item of the item table and every item of a used event. A column of the item table has the value
of the item's latest row there (by `items_time`, as of the preparation, or by the event's time column where the table
has it, then by place); a column that only the events have has the value of the item's latest used event, whose time is
`last_event`. Users are those with a used event, with their latest values in the same way: where the events have a
user's column, that of the latest used event.

A run that continues a previous one keeps its values where neither table nor log has a newer one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from twotower_tf.config import DataConfig, ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.prepare import ordered_rows, row_rules, typed_values
from twotower_tf.prepare.schema import LAST_MICROSECOND, FeatureColumn, Inputs, Side, list_feature_columns
from twotower_tf.sql import Connection, describe_value, quote_identifier, quote_literal
from twotower_tf.tables import timestamps
from twotower_tf.tables.cluster import Cluster
from twotower_tf.tables.duckdb_engine import drop_table, fetch_row
from twotower_tf.tables.input_table import Column, Table
from twotower_tf.tables.read_options import TableName
from twotower_tf.tables.values import text_sql

_BEFORE_ALL = -(1 << 62)  # the time of an event without one


@dataclass(frozen=True)
class TableCounts:
    """Counts of a table's rows.

    Used are the latest of each id, or of each id and time where the table has a time column; duplicates are the others;
    quarantined are malformed ones and those without a usable id or time.
    """

    read: int
    used: int
    duplicates: int
    quarantined: int


def create_latest_rows(
    connection: Connection, data: DataConfig, name: TableName, table: Table, now: int | None = None
) -> tuple[TableCounts, list[tuple[int, str]]]:
    """Creates `item_latest` or `user_latest`: id and place of each id's latest row of a table.

    Where the table has the column that the configuration names (`items_time`, `users_time`), `item_rows` or
    `user_rows` is created too: id, place and ts (epoch microseconds) of every id's latest row at each time. Rows that
    become valid after `now`, epoch seconds, are not among the latest.

    Returns:
        the counts, and (place, reason) of rows whose id, or time, cannot be used.

    Raises:
        DataError: where most times cannot be read.
    """
    side = name[:-1]
    id_column, since = getattr(data, f"{side}_id"), getattr(data, f"{name}_time")
    text = table.text(id_column)
    faults = row_rules.id_faults_sql(side, id_column, text)
    ts = "CAST(NULL AS BIGINT)"
    timed = since in table.columns
    if timed:
        column = table.columns[since]
        clock = timestamps.detect_format(
            connection, table.name, column.identifier, column.kind, column=since, field=f"data.{name}_time"
        )
        ts, time = clock.micros, table.text(since)
        faults += (
            f"WHEN {time} IS NULL THEN {quote_literal(f'no time: column {since!r} is empty')} "
            f"WHEN {ts} IS NULL THEN {describe_value('time', time, f'is not {clock.form}')} "
        )
    elif data.timestamp in table.columns:
        column = table.columns[data.timestamp]
        with contextlib.suppress(DataError):  # a column of that name with another meaning: file order decides
            ts = timestamps.detect_format(
                connection, table.name, column.identifier, column.kind, column=data.timestamp
            ).micros
    connection.execute(
        f"""
        CREATE TABLE {side}_checked AS
        SELECT {text} AS id, rowid AS place, {ts} AS ts, CASE {faults} END AS reason FROM {table.name};
        CREATE TABLE {side}_rows AS
        SELECT id, ts, max(place) AS place FROM {side}_checked WHERE reason IS NULL GROUP BY id, ts;
        CREATE TABLE {side}_latest AS
        SELECT id, arg_max(place, coalesce(ts, {_BEFORE_ALL})) AS place FROM {side}_rows
        {f"WHERE ts <= {now * timestamps.MICROSECONDS}" if timed and now is not None else ""} GROUP BY id
        """
    )
    rejected = connection.execute(
        f"SELECT place, reason FROM {side}_checked WHERE reason IS NOT NULL ORDER BY place"
    ).fetchall()
    drop_table(connection, f"{side}_checked")
    bad = len(rejected)
    (used,) = fetch_row(connection, f"SELECT count(*) FROM {side}_{'rows' if timed else 'latest'}")
    malformed = len(table.malformed)
    return TableCounts(table.rows + malformed, used, table.rows - used - bad, bad + malformed), rejected


def number_ids(connection: Connection, inputs: Inputs) -> None:
    """Creates `users` and `items` (id, row) and `used_events`: the used events by row numbers.

    Where a previous run is continued, its users and items keep their numbers, and new ones follow.
    """
    used = "FROM validated_events WHERE reason IS NULL AND NOT excluded"
    more = " UNION SELECT id AS item_id FROM item_latest" if inputs.items is not None else ""
    _number_side(connection, "user", f"SELECT DISTINCT user_id {used}", inputs.continued)
    _number_side(connection, "item", f"SELECT DISTINCT item_id {used}{more}", inputs.continued)
    # a join of DuckDB mixes the order a little; in the log's order, later steps need not sort
    order = "" if isinstance(connection, Cluster) else "ORDER BY place"
    connection.execute(
        f"""
        CREATE TABLE used_events AS
        SELECT place, user_row, item_row, ts, label, given{"".join(f", {name}" for name in inputs.keys)}
        FROM validated_events JOIN users USING (user_id) JOIN items USING (item_id)
        WHERE reason IS NULL AND NOT excluded {order}
        """
    )


def _number_side(connection: Connection, side: str, ids: str, continued: bool) -> None:
    first, previous, fresh = 0, "", ids
    if continued:
        (first,) = fetch_row(connection, f"SELECT count(*) FROM previous_{side}s")
        previous = f"SELECT {side}_id, {side}_row FROM previous_{side}s UNION ALL"
        fresh = f"SELECT n.{side}_id FROM ({ids}) AS n ANTI JOIN previous_{side}s AS g ON g.{side}_id = n.{side}_id"
    numbered = ordered_rows.add_running_sums(connection, fresh, {"number": "1"}, order=f"{side}_id")
    connection.execute(
        f"CREATE TABLE {side}s AS {previous} SELECT {side}_id, "
        f"CAST({first} + number - 1 AS INTEGER) AS {side}_row FROM {numbered}"
    )


def create_items_query(
    connection: Connection, config: ExperimentConfig, inputs: Inputs, previous: Mapping[str, Column] | None = None
) -> str:
    """Creates `item_events` (each item's latest used event) and returns the SQL of `items.parquet`.

    `previous` has the columns of `previous_items` (`g`): its values are kept where neither table nor log has newer.
    """
    _create_latest_events(connection, "item")
    connection.execute(
        "CREATE TABLE item_counts AS "
        "SELECT item_row, count(*) AS train_count FROM positives WHERE split = 0 GROUP BY item_row"
    )
    data = config.data
    table, events = inputs.items, inputs.events
    from_table = table.columns if table is not None else {}
    features = {column.name: column for column in list_feature_columns(config, "item")}
    name = "NULL"
    if data.item_name:
        named = FeatureColumn(data.item_name, "text")
        if data.item_name in from_table:
            name = named.value(from_table[data.item_name], "t")
        else:
            name = named.value(events.columns[data.item_name], "e")
    values = {"item_id": "i.item_id", "item_name": f"coalesce({name}, i.item_id)"}
    for feature in features.values():
        if feature.name not in values:
            values[feature.name] = _select_feature(feature, data.item_id, table, events)
    values |= {name: typed_values.other_value(from_table[name], "t") for name in inputs.item_others}
    if previous is not None:
        for name in list(values)[1:]:
            before, now = _select_previous(previous.get(name), inputs.item_others.get(name, "")), values[name]
            column = data.item_name if name == "item_name" else name
            silent = [] if column in from_table and column not in events.columns else [_NO_NEWER_EVENT]
            silent += ["l.id IS NULL"] if table is not None else []
            values[name] = f"CASE WHEN {' AND '.join(silent)} THEN coalesce({before}, {now}) ELSE {now} END"
    values["train_count"] = "coalesce(c.train_count, 0)"
    values |= _select_last_event(inputs.continued)
    joins = f"LEFT JOIN item_events AS last ON last.item_row = i.item_row {_OF_LAST_EVENT} "
    joins += "LEFT JOIN item_counts AS c ON c.item_row = i.item_row "
    if table is not None:
        joins += "LEFT JOIN item_latest AS l ON l.id = i.item_id LEFT JOIN item_table_values AS t ON t.place = l.place"
    if previous is not None:
        joins += " LEFT JOIN previous_items AS g ON g.item_row = i.item_row"
    selected = ", ".join(f"{expression} AS {quote_identifier(column)}" for column, expression in values.items())
    return f"SELECT {selected} FROM items AS i {joins} ORDER BY i.item_row"


def create_users_query(connection: Connection, inputs: Inputs) -> str:
    """Creates `user_events` (each user's latest used event) and returns the SQL of `users.parquet`.

    A source column NAME of the user features is `user.NAME` there, as in the examples. Where a previous run is
    continued, the values of `previous_users` (`g`) are kept where neither table nor log has newer.
    """
    _create_latest_events(connection, "user")
    values: dict[str, str] = {}
    for feature in inputs.user_from_events:
        values[feature.name] = feature.value(inputs.events.columns[feature.name], "e")
    joins = f"LEFT JOIN user_events AS last ON last.user_row = u.user_row {_OF_LAST_EVENT} "
    if inputs.users is not None:
        for feature in inputs.user_from_table:
            values[feature.name] = feature.value(inputs.users.columns[feature.name], "t")
        joins += "LEFT JOIN user_latest AS l ON l.id = u.user_id LEFT JOIN user_table_values AS t ON t.place = l.place "
    if inputs.continued:
        joins += "LEFT JOIN previous_users AS g ON g.user_row = u.user_row "
        for features, silent in ((inputs.user_from_events, _NO_NEWER_EVENT), (inputs.user_from_table, "l.id IS NULL")):
            for feature in features:
                before = f"g.{quote_identifier(f'user.{feature.name}')}"
                values[feature.name] = f"CASE WHEN {silent} THEN {before} ELSE {values[feature.name]} END"
    selected = "".join(f", {value} AS {quote_identifier(f'user.{name}')}" for name, value in values.items())
    last = ", ".join(f"{value} AS {name}" for name, value in _select_last_event(inputs.continued).items())
    return f"SELECT u.user_id, u.train_count, {last}{selected} FROM user_counts AS u {joins}ORDER BY u.user_row"


_OF_LAST_EVENT = "LEFT JOIN events_values AS e ON e.place = last.place"
PREVIOUS_EVENT = f"(g.last_event * {timestamps.MICROSECONDS} + g.{LAST_MICROSECOND})"
# the previous run's latest event is later than this one's; of equal times the new one counts
_NO_NEWER_EVENT = (
    f"(last.place IS NULL OR coalesce(last.ts, {_BEFORE_ALL}) < coalesce({PREVIOUS_EVENT}, {_BEFORE_ALL}))"
)


def _select_last_event(continued: bool) -> dict[str, str]:
    """Returns SQL of the time of the latest event, of this run or a previous one, by column."""
    last = f"greatest(last.ts, {PREVIOUS_EVENT})" if continued else "last.ts"
    seconds = timestamps.seconds_sql(last)
    return {
        "last_event": seconds,
        LAST_MICROSECOND: f"CAST({last} - {timestamps.MICROSECONDS} * {seconds} AS INTEGER)",
    }


def _create_latest_events(connection: Connection, side: Side) -> None:
    """Creates `{side}_events`: place and time of each user's or item's latest used event."""
    connection.execute(
        f"""
        CREATE TABLE {side}_events AS
        WITH latest AS (SELECT {side}_row, max(ts) AS ts FROM split_events GROUP BY {side}_row)
        SELECT k.{side}_row, max(k.place) AS place, max(k.ts) AS ts
        FROM split_events AS k JOIN latest ON k.{side}_row = latest.{side}_row AND k.ts IS NOT DISTINCT FROM latest.ts
        GROUP BY k.{side}_row
        """
    )


def _select_previous(previous: Column | None, kind: str) -> str:
    """Returns SQL of a column's previous value, as text where `kind` is text."""
    if previous is None:
        return "NULL"
    return text_sql(f"g.{previous.identifier}", previous.kind) if kind == "VARCHAR" else f"g.{previous.identifier}"


def _select_feature(feature: FeatureColumn, item_id: str, table: Table | None, events: Table) -> str:
    if feature.name == item_id:
        return "i.item_id" if feature.kind == "text" else "TRY_CAST(i.item_id AS DOUBLE)"
    if table is not None and feature.name in table.columns:
        value = feature.value(table.columns[feature.name], "t")
        if feature.name not in events.columns:
            return value
        return f"CASE WHEN t.place IS NULL THEN {feature.value(events.columns[feature.name], 'e')} ELSE {value} END"
    return feature.value(events.columns[feature.name], "e")
