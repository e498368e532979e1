"""Computes running sums, changes and as-of joins: what depends on the rows before a row in an order.

DuckDB computes them by itself. Spark would compute all rows of a key, or all rows, in one task. So its rows are sorted,
which Spark does in ranges, and DuckDB computes range by range: the same query over the rows of a range and over a
summary of each range before it. A summary is about the last key of its range, for only that key goes on in the next. A
hot key is split over many ranges; work is linear in the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twotower_tf.sql import Connection
from twotower_tf.tables.cluster import Cluster, RangeQuery


@dataclass(frozen=True)
class AsOfJoin:
    """A join with the latest row of a table that has the same key, at or before a time; NULL where there is none.

    Attributes:
        table: the right table, in which no two rows have the same key and time.
        key: its column of keys.
        time: its column of times.
        left_key: the left rows' column of keys.
        left_time: the left rows' column of times.
        columns: the right table's columns by their name in the result.
    """

    table: str
    key: str
    time: str
    left_key: str
    left_time: str
    columns: Mapping[str, str]


def add_running_sums(connection: Connection, rows: str, sums: Mapping[str, str], order: str, key: str = "") -> str:
    """Returns SQL of a relation: the rows of a query with running sums, which include the row itself.

    Args:
        connection: a cluster computes the result here.
        rows: SQL of the query.
        sums: SQL of the whole numbers that are added, by the name of the sum; "1" numbers the rows from 1.
        order: SQL of the order, in which no two rows of a key are equal.
        key: the column, without NULL, by which sums are kept apart; "" for sums over all rows.
    """
    if isinstance(connection, Cluster):
        return connection.compute_ranges(plan_running_sums(rows, sums, order, key))
    over = f"OVER ({f'PARTITION BY {key} ' if key else ''}ORDER BY {order})"
    added = {name: "row_number()" if value == "1" else f"sum({value})" for name, value in sums.items()}
    columns = ", ".join(f"CAST({value} {over} AS BIGINT) AS {name}" for name, value in added.items())
    return f"(SELECT *, {columns} FROM ({rows}))"


def plan_running_sums(rows: str, sums: Mapping[str, str], order: str, key: str = "") -> RangeQuery:
    """Plans running sums range by range (see `add_running_sums`)."""
    addends = [f"addend_{number}" for number in range(len(sums))]
    values = ", ".join(f"{value} AS {addend}" for value, addend in zip(sums.values(), addends, strict=True))
    totals = ", ".join(f"CAST(sum({addend}) AS BIGINT) AS {addend}" for addend in addends)
    last = f"WHERE {key} = (SELECT max({key}) FROM sorted) GROUP BY {key}" if key else ""
    over = f"OVER ({f'PARTITION BY {key} ' if key else ''}ORDER BY here, {order})"
    columns = ", ".join(
        f"CAST(sum({addend}) {over} AS BIGINT) AS {name}" for name, addend in zip(sums, addends, strict=True)
    )
    both = "SELECT *, true AS here FROM sorted UNION ALL BY NAME SELECT *, false AS here FROM earlier"
    return RangeQuery(
        f"SELECT *, {values} FROM ({rows})",
        f"{key}, {order}" if key else order,
        f"SELECT {f'{key}, ' if key else ''}{totals} FROM sorted {last}",
        f"SELECT * EXCLUDE (here, {', '.join(addends)}) FROM (SELECT *, {columns} FROM ({both})) WHERE here",
    )


def create_changes(connection: Connection, table: str, rows: str, key: str, order: str, values: Sequence[str]) -> None:
    """Creates a table of a query's rows but for those whose values equal the ones of their key's row before.

    The rows are in the order of key and `order`; `place` numbers them from 0.

    Args:
        connection: a cluster computes the changes here.
        table: the name of the table.
        rows: SQL of the query; it has the columns `key`, `order` and `values`.
        key: the column by which rows are kept apart.
        order: a column in which no two rows of a key are equal.
        values: the columns that are compared.
    """
    names = ", ".join((key, order, *values))
    if isinstance(connection, Cluster):
        changes = connection.compute_ranges(plan_changes(rows, key, order, values))
        numbered = add_running_sums(connection, f"SELECT {names} FROM {changes}", {"number": "1"}, f"{key}, {order}")
        connection.execute(f"CREATE TABLE {table} AS SELECT {names}, number - 1 AS place FROM {numbered}")
        return
    connection.execute(f"CREATE TABLE {table}_sorted AS SELECT {names} FROM ({rows}) ORDER BY {key}, {order}")
    changes = _select_changes(f"{table}_sorted", "", key, values)  # windows in the table's order sort nothing
    connection.execute(f"CREATE TABLE {table} AS SELECT {names}, row_number() OVER () - 1 AS place FROM ({changes})")
    connection.execute(f"DROP TABLE {table}_sorted")


def plan_changes(rows: str, key: str, order: str, values: Sequence[str]) -> RangeQuery:
    """Plans changes range by range (see `create_changes`)."""
    names = ", ".join((key, order, *values))
    both = f"(SELECT {names}, true AS here FROM sorted UNION ALL SELECT {names}, false AS here FROM earlier)"
    return RangeQuery(
        f"SELECT {names} FROM ({rows})",
        f"{key}, {order}",
        f"SELECT {names} FROM sorted ORDER BY {key} DESC, {order} DESC LIMIT 1",
        f"SELECT {names} FROM ({_select_changes(both, f'ORDER BY {key}, {order}', key, values)}) WHERE here",
    )


def _select_changes(rows: str, window: str, key: str, values: Sequence[str]) -> str:
    """Returns SQL of the rows whose key or values differ from those of the row before in the window."""
    compared = (key, *values)
    before = ", ".join(f"lag({name}) OVER ({window}) AS {name}_before" for name in compared)
    differs = " OR ".join(f"{name} IS DISTINCT FROM {name}_before" for name in compared)
    return f"SELECT * FROM (SELECT *, {before} FROM {rows}) WHERE {differs}"


def join_as_of(connection: Connection, rows: str, joins: Sequence[AsOfJoin]) -> str:
    """Returns SQL of a relation: the rows of a query with the columns of as-of joins; a cluster computes it here."""
    if isinstance(connection, Cluster):
        for join in joins:
            names = [name for name, *_ in connection.execute(f"DESCRIBE {rows}").fetchall()]
            rows = f"SELECT * FROM {connection.compute_ranges(plan_as_of(rows, names, join))}"
        return f"({rows})"
    selected, joined = "", ""
    for number, join in enumerate(joins):
        right = f"right_{number}"
        selected += "".join(f", {right}.{column} AS {name}" for name, column in join.columns.items())
        joined += f" ASOF LEFT JOIN {join.table} AS {right} ON {right}.{join.key} = l.{join.left_key}"
        joined += f" AND l.{join.left_time} >= {right}.{join.time}"
    return f"(SELECT l.*{selected} FROM ({rows}) AS l{joined})"


def plan_as_of(rows: str, names: Sequence[str], join: AsOfJoin) -> RangeQuery:
    """Plans an as-of join range by range: both sides are sorted together by key and time; `names` are those of rows."""
    rights = [f"right_{number}" for number in range(len(join.columns))]
    no_right = "".join(f", NULL AS {right}" for right in rights)
    no_left = "".join(f"NULL AS {name}, " for name in names)
    values = "".join(f", {column} AS {right}" for right, column in zip(rights, join.columns.values(), strict=True))
    selected = ", ".join(["join_key", "join_time", *rights])
    answer = [f"l.{name}" for name in names]
    answer += [f"r.{right} AS {name}" for right, name in zip(rights, join.columns, strict=True)]
    return RangeQuery(
        f"SELECT {', '.join(names)}, {join.left_key} AS join_key, {join.left_time} AS join_time, 1 AS side{no_right} "
        f"FROM ({rows}) UNION ALL SELECT {no_left}{join.key} AS join_key, {join.time} AS join_time, 0 AS side{values} "
        f"FROM {join.table} WHERE {join.time} IS NOT NULL",
        "join_key, join_time, side",
        f"SELECT {selected} FROM sorted WHERE side = 0 AND join_key = (SELECT max(join_key) FROM sorted) "
        "ORDER BY join_time DESC LIMIT 1",
        f"SELECT {', '.join(answer)} FROM (SELECT * FROM sorted WHERE side = 1) AS l ASOF LEFT JOIN "
        f"(SELECT {selected} FROM sorted WHERE side = 0 UNION ALL SELECT {selected} FROM earlier) AS r "
        "ON l.join_key = r.join_key AND l.join_time >= r.join_time",
    )
