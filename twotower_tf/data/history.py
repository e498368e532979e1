"""What a user did strictly before an event.

A user's positives stand in one array, ordered by time and place in the log; an event's history is a slice of it. The
array `train` has the training positives and serves training and validation rows; `seen` has the validation positives
too and serves test rows. A slice starts with the user's first position and ends before the first positive that is not
strictly earlier than the event: events at the same time do not know each other. Without a time column the slice is all
of the user's positives in the array. An event without a time, in a log that has times, has no history and is in
nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np

from twotower_tf.artifacts import PreparedPaths
from twotower_tf.data import as_of, shards
from twotower_tf.data.engine import one

_MEMBERS = {"train": "split = 0", "seen": "split <= 1"}


def count_positives(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates `user_counts`: user_row, user_id, the user's positives and their first positions in both arrays."""
    counts = ", ".join(
        f"count(*) FILTER (label = 1 AND {member}) AS {which}_count" for which, member in _MEMBERS.items()
    )
    starts = ", ".join(
        f"CAST(sum({which}_count) OVER (ORDER BY user_row) AS BIGINT) - {which}_count AS {which}_start"
        for which in _MEMBERS
    )
    connection.execute(
        f"""
        CREATE TABLE user_counts AS
        WITH counts AS (SELECT user_row, {counts} FROM split_keys GROUP BY user_row)
        SELECT user_row, user_id, train_count, seen_count, {starts} FROM users JOIN counts USING (user_row)
        """
    )


def write_sequences(connection: duckdb.DuckDBPyConnection, root: Path) -> None:
    """Writes the arrays and, per user, where each one's part begins."""
    paths = PreparedPaths(root)
    for which, member in _MEMBERS.items():
        positives, users = one(connection, f"SELECT CAST(sum({which}_count) AS BIGINT), count(*) FROM user_counts")
        shards.write_array(
            connection,
            f"SELECT item_row FROM split_keys WHERE label = 1 AND {member} ORDER BY user_row, ts NULLS LAST, place",
            paths.sequences(which),
            np.int32,
            positives,
        )
        shards.write_array(
            connection,
            f"SELECT start FROM (SELECT user_row, {which}_start AS start FROM user_counts "
            f"UNION ALL SELECT {users}, {positives}) ORDER BY user_row",
            paths.sequence_users(which),
            np.int64,
            users + 1,
        )


def place_histories(connection: duckdb.DuckDBPyConnection, timed: bool, versions: Mapping[str, bool]) -> None:
    """Creates `placed` from `split_keys`, in the order of split, time and place.

    The columns: those of `split_keys`, `history_start`, `history_end`, and for each of `versions` ("user", "item"; with
    times or not) the place of the table's row that holds at the event (`user_at`, `item_at`).
    """
    end = {}
    for which, member in _MEMBERS.items():
        # up to and including the row's time, less the row's time itself: strictly before, whatever the ties
        counted = f"count(*) FILTER (WHERE label = 1 AND {member})"
        before = f"{counted} OVER (PARTITION BY user_row ORDER BY ts) - {counted} OVER (PARTITION BY user_row, ts)"
        end[which] = f"CASE WHEN ts IS NULL THEN 0 ELSE {before} END" if timed else f"{which}_count"
    at = "".join(f", {side}_versions.place AS {side}_at" for side in versions)
    joins = " ".join(as_of.join(side, timed=dated) for side, dated in versions.items())
    connection.execute(
        f"""
        CREATE TABLE placed AS
        WITH ends AS (
            SELECT place, user_row, item_row, label, ts, split, train_start, seen_start,
                   {end["train"]} AS train_end, {end["seen"]} AS seen_end
            FROM split_keys JOIN user_counts USING (user_row)
        )
        SELECT k.place, k.user_row, k.item_row, k.label, k.ts, k.split,
               CASE WHEN k.split = 2 THEN seen_start ELSE train_start END AS history_start,
               CASE WHEN k.split = 2 THEN seen_start + seen_end ELSE train_start + train_end END AS history_end{at}
        FROM ends AS k {joins}
        ORDER BY k.split, k.ts NULLS LAST, k.place
        """
    )
