"""Counts by binary search, and by a table, are those of a look at every row."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import numpy as np
import pytest

from twotower_tf.prepare import event_lookup
from twotower_tf.prepare.event_lookup import NO_TIME, AsOfSearch


@pytest.mark.parametrize("table", [0, 1 << 22])
@pytest.mark.parametrize("size", [0, 1, 60])
def test_counts_before_a_key_and_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, table: int) -> None:
    monkeypatch.setattr(event_lookup, "_TABLE", table)
    chance = random.Random(size)
    rows = [(chance.randrange(5), chance.choice([None, -(1 << 62), -3, 0, 7, 9, 1 << 60])) for _ in range(size)]
    connection = duckdb.connect()
    connection.execute("CREATE TABLE facts (person INTEGER, ts BIGINT)")
    if rows:
        connection.executemany("INSERT INTO facts VALUES (?, ?)", rows)
    time = f"coalesce(ts, {NO_TIME})"
    search = AsOfSearch(connection, "facts", "person", time, "person, ts NULLS LAST", tmp_path / "facts")
    asked = [(person, at) for person in range(6) for at in (-(1 << 62), -4, -3, 0, 8, 9, 1 << 60, (1 << 60) + 1)]
    keys, times = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    known = [(person, NO_TIME if ts is None else ts) for person, ts in rows]
    assert search.count_before(keys, times, through=False).tolist() == [
        sum(row < question for row in known) for question in asked
    ]
    assert search.count_before(keys, times, through=True).tolist() == [
        sum(row <= question for row in known) for question in asked
    ]
