"""Windows answered part by part are those over the whole table, wherever the parts begin."""

from __future__ import annotations

import random
from typing import Any

import duckdb
import pytest

pytest.importorskip("sqlglot", reason="needs sqlglot: pip install 'twotower-tf[spark]'")

from twotower_tf.prepare.spark import query_plan, windows  # noqa: E402

pytestmark = pytest.mark.spark

QUERIES = {
    "numbers": "SELECT place, row_number() OVER (ORDER BY place) - 1 AS n, place * 2 AS twice FROM log",
    "running sum": "SELECT place, user, CAST(sum(label) OVER (ORDER BY place) AS BIGINT) - label AS before FROM log",
    "histories": (
        "SELECT place, CASE WHEN ts IS NULL THEN 0 ELSE count(*) FILTER (WHERE label = 1) OVER "
        "(PARTITION BY user ORDER BY ts) - count(*) FILTER (WHERE label = 1) OVER (PARTITION BY user, ts) END AS h "
        "FROM log"
    ),
    "last ones": (
        "SELECT place, row_number() OVER (PARTITION BY k.user ORDER BY ts DESC, place DESC) AS back, "
        "count(*) OVER (PARTITION BY k.user) AS positives FROM log AS k WHERE label = 1"
    ),
}


def sorted_parts(connection: Any, query: Any, chance: random.Random) -> list[str]:
    """Cuts the sorted rows anywhere but between rows that are equal in the order; names of the parts."""
    connection.execute(f"CREATE OR REPLACE TABLE whole AS {query_plan.duckdb_sql(query.rows)}")
    order = [each.this for each in query.rows.args["order"].expressions]
    columns = {query_plan.duckdb_sql(item.unalias()): item.alias for item in query.rows.expressions}
    keys = ", ".join(columns.get(query_plan.duckdb_sql(each), query_plan.duckdb_sql(each)) for each in order)
    rows = [row[0] for row in connection.execute(f"SELECT ({keys}) FROM whole ORDER BY rowid").fetchall()]
    free = [index for index in range(1, len(rows)) if rows[index] != rows[index - 1]]
    cuts = [0, *sorted(chance.sample(free, min(len(free), chance.randrange(9)))), len(rows)]
    names = []
    for index, (first, last) in enumerate(zip(cuts, cuts[1:], strict=False)):
        names.append(f"part{index}")
        condition = f"rowid >= {first} AND rowid < {last}"
        connection.execute(f"CREATE OR REPLACE TABLE part{index} AS SELECT * FROM whole WHERE {condition}")
    return names


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", QUERIES)
def test_parts_add_up_to_the_whole(name: str, seed: int) -> None:
    chance = random.Random(seed)
    users = chance.choice([[1], [1] * 30 + [2, 3, 4], list(range(9))])  # one user; a hot one; many
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.execute("CREATE TABLE log (place BIGINT, user INTEGER, ts BIGINT, label TINYINT)")
    times = [None, *range(12)]
    rows = [(place, chance.choice(users), chance.choice(times), chance.randrange(2)) for place in range(80)]
    connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", rows)
    query = windows.plan_running(query_plan.parse(QUERIES[name]))
    assert query is not None
    parts = sorted_parts(connection, query, chance)

    def ask(part: str, sql: str) -> list[tuple[Any, ...]]:
        connection.execute(f"CREATE OR REPLACE VIEW sorted AS SELECT * FROM {part}")
        return connection.execute(sql).fetchall()

    edges = [ask(part, query.edges())[0] for part in parts]
    found = [row for part, sql in zip(parts, query.final(edges), strict=True) for row in ask(part, sql)]
    assert sorted(found) == sorted(connection.execute(QUERIES[name]).fetchall())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT place, lead(ts) OVER (PARTITION BY user ORDER BY ts) AS until FROM log",
        "SELECT place, row_number() OVER (PARTITION BY user, label ORDER BY ts) AS n FROM log",
        "SELECT place, label FROM log",
        "SELECT count(*) OVER (PARTITION BY user, ts) AS peers, "
        "row_number() OVER (PARTITION BY user ORDER BY ts, place) AS n FROM log",
    ],
)
def test_other_windows_are_left_to_spark(sql: str) -> None:
    assert windows.plan_running(query_plan.parse(sql)) is None


def test_a_window_over_all_rows_that_parts_cannot_answer_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="windows over all rows"):
        windows.plan_running(query_plan.parse("SELECT lag(ts) OVER (ORDER BY place) FROM log"))
