"""ASOF joins answered part by part are DuckDB's own over the whole tables, wherever the parts begin."""

from __future__ import annotations

import random

import duckdb
import pytest

pytest.importorskip("sqlglot", reason="needs sqlglot: pip install 'twotower-tf[spark]'")

from tests.prepare.test_spark_windows import sorted_parts  # noqa: E402
from twotower_tf.prepare.spark import as_of_joins, query_plan  # noqa: E402

pytestmark = pytest.mark.spark

QUERY = """
    SELECT k.place, user, start + coalesce(seen, 0) AS history_end, v.at
    FROM log AS k JOIN people AS u ON u.person = k.user
    ASOF LEFT JOIN versions AS v ON v.of = k.user AND k.ts >= v.since
"""
COLUMNS = {
    "log": {"place": "BIGINT", "user": "INTEGER", "ts": "BIGINT"},
    "people": {"person": "INTEGER", "start": "BIGINT"},
    "versions": {"of": "INTEGER", "since": "BIGINT", "at": "BIGINT", "seen": "BIGINT"},
}


@pytest.mark.parametrize("seed", range(30))
def test_parts_answer_as_the_whole(seed: int) -> None:
    chance = random.Random(seed)
    users = chance.choice([[1], [1] * 30 + [2, 3, 4], list(range(9))])  # one user; a hot one; many
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    for name, columns in COLUMNS.items():
        body = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
        connection.execute(f"CREATE TABLE {name} ({body})")
    times = [None, *range(12)]
    events = [(place, chance.choice(users), chance.choice(times)) for place in range(60)]
    moments = {(chance.choice(users), chance.choice(times)) for _ in range(25)}
    versions = [(user, time, index, index * 10) for index, (user, time) in enumerate(sorted(moments, key=str))]
    connection.executemany("INSERT INTO log VALUES (?, ?, ?)", events)
    connection.executemany("INSERT INTO people VALUES (?, ?)", [(user, user * 100) for user in set(users)])
    connection.executemany("INSERT INTO versions VALUES (?, ?, ?, ?)", versions)
    select = query_plan.parse(QUERY)
    join, rest = as_of_joins.split_as_of(select, as_of_joins.find_as_of_join(select), lambda name: list(COLUMNS[name]))
    parts = sorted_parts(connection, join, chance)

    def view(part: str) -> None:
        connection.execute(f"CREATE OR REPLACE VIEW sorted AS SELECT * FROM {part}")

    edges = []
    for part in parts:
        view(part)
        edges += connection.execute(as_of_joins.EDGES).fetchall()
    connection.execute("CREATE TABLE joined AS SELECT * FROM (SELECT 1) WHERE false")
    answers = []
    for part, sql in zip(parts, join.final(edges, parts), strict=True):
        view(part)
        for other in parts:
            sql = sql.replace(f"read_parquet('{other}')", other)
        connection.execute(f"CREATE TABLE answer_{part} AS {sql}")
        answers.append(f"SELECT * FROM answer_{part}")
    connection.execute(f"CREATE OR REPLACE TABLE joined AS {' UNION ALL '.join(answers)}")
    found = connection.execute(query_plan.duckdb_sql(rest)).fetchall()
    assert sorted(found) == sorted(connection.execute(QUERY).fetchall())


def test_another_condition_is_refused() -> None:
    select = query_plan.parse(
        "SELECT 1 AS one FROM log AS k ASOF LEFT JOIN versions AS v ON v.of = k.user AND k.ts > v.since"
    )
    with pytest.raises(NotImplementedError, match="a join"):
        as_of_joins.split_as_of(select, 0, lambda name: list(COLUMNS[name]))
