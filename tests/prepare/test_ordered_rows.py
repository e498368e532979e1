"""Running sums, changes and as-of joins, as a whole and range by range, are what a search row by row finds."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import duckdb
import pytest

from twotower_tf.prepare import ordered_rows
from twotower_tf.prepare.ordered_rows import AsOfJoin
from twotower_tf.tables.cluster import RangeQuery

Row = tuple[Any, ...]


def cut(connection: Any, query: RangeQuery, chance: random.Random) -> list[list[Row]]:
    """Sorts the rows and cuts them anywhere but between rows that are equal in the order."""
    connection.execute(f"CREATE TABLE whole AS SELECT * FROM ({query.rows}) LIMIT 0")
    order = ", ".join(each.removesuffix(" DESC") for each in query.order.split(", "))
    rows = connection.execute(f"SELECT ({order}), * FROM ({query.rows}) ORDER BY {query.order}").fetchall()
    free = [index for index in range(1, len(rows)) if rows[index][0] != rows[index - 1][0]]
    cuts = [0, *sorted(chance.sample(free, min(len(free), chance.randrange(9)))), len(rows)]
    return [[row[1:] for row in rows[first:last]] for first, last in zip(cuts, cuts[1:], strict=False)]


def compute(connection: Any, query: RangeQuery, chance: random.Random) -> list[Row]:
    """Computes a query range by range, as a cluster does; the ranges are computed in any order."""
    ranges = cut(connection, query, chance)
    for index, rows in enumerate(ranges):
        connection.execute(f"CREATE TABLE range{index} AS SELECT * FROM whole LIMIT 0")
        if rows:
            connection.executemany(f"INSERT INTO range{index} VALUES ({', '.join('?' * len(rows[0]))})", rows)

    def over(index: int, sql: str) -> str:
        return f"WITH sorted AS (SELECT * FROM range{index}) {sql}"

    for index in range(len(ranges)):
        into = "INSERT INTO summaries" if index else "CREATE TABLE summaries AS"
        connection.execute(f"{into} {over(index, f'SELECT *, {index} AS range FROM ({query.summary})')}")
    found: list[Row] = []
    for index in chance.sample(range(len(ranges)), len(ranges)):
        earlier = f"earlier AS (SELECT * EXCLUDE (range) FROM summaries WHERE range < {index})"
        found += connection.execute(f"WITH sorted AS (SELECT * FROM range{index}), {earlier} {query.result}").fetchall()
    return found


def log(chance: random.Random, *others: list[int | None]) -> tuple[Any, list[Row]]:
    """Events of one user, of a hot one, of many, or of `others`; some without a time."""
    users = chance.choice([[1], [1] * 30 + [2, 3, 4], list(range(9)), *others])
    times = [None, *range(12)]
    rows = [(place, chance.choice(users), chance.choice(times), chance.randrange(2)) for place in range(80)]
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.execute("CREATE TABLE log (place BIGINT, person INTEGER, ts BIGINT, label TINYINT)")
    connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", rows)
    return connection, rows


def up_to(rows: list[Row], keyed: bool, before: Callable[[Row, Row], bool]) -> dict[int, tuple[int, int]]:
    """By place: how many rows, and labels, there are up to the row itself."""
    found = {}
    for row in rows:
        those = [each for each in rows if (not keyed or each[1] == row[1]) and before(each, row)]
        found[row[0]] = (len(those), sum(each[3] for each in those))
    return found


SUMS: dict[str, tuple[str, str, Callable[[Row, Row], bool]]] = {
    "over all rows": ("place", "", lambda one, row: one[0] <= row[0]),
    "from the end": ("place DESC", "", lambda one, row: one[0] >= row[0]),
    "by key": ("place", "person", lambda one, row: one[0] <= row[0]),
    "by key, from the end": (
        "ts DESC, place DESC",
        "person",
        lambda one, row: (-1 if one[2] is None else one[2], one[0]) >= (-1 if row[2] is None else row[2], row[0]),
    ),
}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", SUMS)
def test_running_sums(name: str, seed: int) -> None:
    chance = random.Random(seed)
    connection, rows = log(chance)
    order, key, before = SUMS[name]
    arguments = ("SELECT place, person, ts, label FROM log", {"number": "1", "labels": "label"}, order, key)
    expected = {place: (place, *counts) for place, counts in up_to(rows, bool(key), before).items()}
    whole = f"SELECT place, number, labels FROM {ordered_rows.add_running_sums(connection, *arguments)}"
    assert {row[0]: row for row in connection.execute(whole).fetchall()} == expected
    by_range = compute(connection, ordered_rows.plan_running_sums(*arguments), chance)
    assert sorted((place, number, labels) for place, _, _, _, number, labels in by_range) == sorted(expected.values())


@pytest.mark.parametrize("seed", range(30))
def test_as_of_joins(seed: int) -> None:
    chance = random.Random(seed)
    connection, rows = log(chance, [None, 1, 2])
    moments = {(chance.choice(rows)[1], chance.choice([None, *range(-1, 12)])) for _ in range(40)}
    versions = [(person, since, number) for number, (person, since) in enumerate(sorted(moments, key=str))]
    connection.execute("CREATE TABLE versions (of_person INTEGER, since BIGINT, number BIGINT)")
    connection.executemany("INSERT INTO versions VALUES (?, ?, ?)", versions)
    expected = []
    for place, person, ts, _ in rows:
        known = [
            (since, number)
            for of_person, since, number in versions
            if None not in (person, ts, since) and of_person == person and since <= ts
        ]
        expected.append((place, *max(known, default=(None, None))))
    join = AsOfJoin("versions", "of_person", "since", "person", "ts", {"valid_from": "since", "version": "number"})
    query = "SELECT place, person, ts FROM log"
    whole = f"SELECT place, valid_from, version FROM {ordered_rows.join_as_of(connection, query, [join])}"
    assert sorted(connection.execute(whole).fetchall()) == expected
    by_range = compute(connection, ordered_rows.plan_as_of(query, ["place", "person", "ts"], join), chance)
    assert sorted((place, since, number) for place, _, _, since, number in by_range) == expected


def test_several_joins_are_computed_together() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE log AS SELECT * FROM (VALUES (1, 5, 7), (2, 6, 8)) AS t (place, one, other)")
    connection.execute("CREATE TABLE early AS SELECT 5 AS key, 6 AS since, 'a' AS name")
    connection.execute("CREATE TABLE late AS SELECT 8 AS key, 2 AS since, 'b' AS name")
    joins = [
        AsOfJoin("early", "key", "since", "one", "other", {"first": "name"}),
        AsOfJoin("late", "key", "since", "other", "place", {"second": "name"}),
    ]
    relation = ordered_rows.join_as_of(connection, "SELECT * FROM log", joins)
    found = connection.execute(f"SELECT place, first, second FROM {relation} ORDER BY place").fetchall()
    assert found == [(1, "a", None), (2, None, "b")]


@pytest.mark.parametrize("seed", range(12))
def test_changes(seed: int) -> None:
    """A row stays where a value differs from its person's row before; a missing value is a value, too."""
    chance = random.Random(seed)
    connection, rows = log(chance)
    values = {place: (chance.choice([None, 1, 2]), label) for place, _, _, label in rows}
    connection.execute("CREATE TABLE known (of_place BIGINT, value INTEGER)")
    connection.executemany("INSERT INTO known VALUES (?, ?)", [(place, value) for place, (value, _) in values.items()])
    expected: list[Row] = []
    for place, person, _, _ in sorted(rows, key=lambda row: (row[1], row[0])):
        before = max((each[0] for each in rows if each[1] == person and each[0] < place), default=None)
        if before is None or values[before] != values[place]:
            expected.append((person, place, *values[place]))
    query = "SELECT person, of_place AS moment, value, label FROM log JOIN known ON of_place = place"
    arguments = (query, "person", "moment", ["value", "label"])
    by_range = compute(connection, ordered_rows.plan_changes(*arguments), chance)
    assert sorted(by_range, key=lambda row: row[:2]) == expected
    ordered_rows.create_changes(connection, "changes", *arguments)
    found = connection.execute("SELECT * FROM changes").fetchall()
    assert found == [(*row, place) for place, row in enumerate(expected)]
