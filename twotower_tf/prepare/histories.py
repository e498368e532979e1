"""What a user did strictly before an event.

A user's positives stand in one array, ordered by time and place in the log; an event's history is a slice of it. The
array `train` has the training positives and serves training and validation rows; `seen` has the validation positives
too and serves test rows. A slice starts with the user's first position and ends before the first positive that is not
strictly earlier than the event: events at the same time do not know each other. Without a time column the slice is all
of the user's positives in the array. An event without a time, in a log that has times, has no history and is in
nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import numpy as np

from twotower_tf.artifacts import PreparedPaths
from twotower_tf.prepare import as_of
from twotower_tf.tables import parquet_parts
from twotower_tf.tables.duckdb_engine import one

_MEMBERS = {"train": "split = 0", "seen": "split <= 1"}


def count_positives(connection: duckdb.DuckDBPyConnection, past: str = "") -> None:
    """Creates `positives` and `user_counts`.

    `positives` has user_row, item_row, ts (epoch microseconds), place and split of what can be in a history.
    `user_counts` has user_row, user_id, the user's positives and their first positions in both arrays.

    Args:
        connection: with `split_keys` and `users`.
        past: a table like `positives` of an earlier run, whose rows stand before all others, or "".
    """
    counts = ", ".join(f"count(*) FILTER ({member}) AS {which}_count" for which, member in _MEMBERS.items())
    known = ", ".join(f"coalesce({which}_count, 0) AS {which}_count" for which in _MEMBERS)
    starts = ", ".join(
        f"CAST(sum({which}_count) OVER (ORDER BY user_row) AS BIGINT) - {which}_count AS {which}_start"
        for which in _MEMBERS
    )
    columns = "user_row, item_row, ts, place, split"
    connection.execute(
        f"""
        CREATE TABLE positives AS
        SELECT {columns} FROM split_keys WHERE label = 1 AND split <= 1
        {f"UNION ALL SELECT {columns} FROM {past}" if past else ""};
        CREATE TABLE user_counts AS
        WITH counts AS (SELECT user_row, {counts} FROM positives GROUP BY user_row),
        every AS (SELECT user_row, user_id, {known} FROM users LEFT JOIN counts USING (user_row))
        SELECT user_row, user_id, train_count, seen_count, {starts} FROM every
        """
    )


def write_sequences(connection: duckdb.DuckDBPyConnection, root: Path, past: str = "") -> None:
    """Writes the arrays and, per user, where each one's part begins; and all positives, for a run that continues."""
    paths = PreparedPaths(root)
    continued = f" UNION ALL SELECT user_row, item_row, ts, place FROM {past}" if past else ""
    parquet_parts.write_parts(
        connection,
        "SELECT user_row, item_row, ts AS micros, place FROM (SELECT user_row, item_row, ts, place FROM split_keys "
        f"WHERE label = 1{continued}) ORDER BY user_row, ts NULLS LAST, place",
        paths.positives,
    )
    for which, member in _MEMBERS.items():
        positives, users = one(connection, f"SELECT CAST(sum({which}_count) AS BIGINT), count(*) FROM user_counts")
        parquet_parts.write_array(
            connection,
            f"SELECT item_row FROM positives WHERE {member} ORDER BY user_row, ts NULLS LAST, place",
            paths.sequences(which),
            np.int32,
            positives,
        )
        parquet_parts.write_array(
            connection,
            f"SELECT start FROM (SELECT user_row, {which}_start AS start FROM user_counts "
            f"UNION ALL SELECT {users}, {positives}) ORDER BY user_row",
            paths.sequence_users(which),
            np.int64,
            users + 1,
        )


def place_histories(
    connection: duckdb.DuckDBPyConnection, timed: bool, versions: Mapping[str, bool], keys: Sequence[str]
) -> None:
    """Creates `placed` from `split_keys`, in the order of split, time and place.

    The columns: those of `split_keys` (of which `keys` are not always there), `history_start`, `history_end`, and for
    each of `versions` ("user", "item"; with times or not) the place of the table's row that holds at the event
    (`user_at`, `item_at`).
    """
    carried = "".join(f", k.{name}" for name in keys)
    at = "".join(f", {side}_versions.place AS {side}_at" for side in versions)
    joins = " ".join(as_of.join(side, timed=dated) for side, dated in versions.items())
    lengths = {which: f"{which}_count" for which in _MEMBERS}
    if timed:
        _count_before(connection)
        lengths = {which: f"coalesce({which}_before, 0)" for which in _MEMBERS}
        joins += " ASOF LEFT JOIN met ON met.of_user = k.user_row AND k.ts >= met.since"
    connection.execute(
        f"""
        CREATE TABLE placed AS
        SELECT k.place, k.user_row, k.item_row, k.label, k.ts, k.split{carried},
               CASE WHEN k.split = 2 THEN seen_start ELSE train_start END AS history_start,
               CASE WHEN k.split = 2 THEN seen_start + {lengths["seen"]}
                    ELSE train_start + {lengths["train"]} END AS history_end{at}
        FROM split_keys AS k JOIN user_counts AS u ON u.user_row = k.user_row {joins}
        ORDER BY k.split, k.ts NULLS LAST, k.place
        """
    )


def _count_before(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates `met`: how many positives a user has from a time on, until the next of the user's rows there.

    They count from the microsecond after their own: strictly before, whatever the ties.
    """
    counts = ", ".join(f"count(*) FILTER ({member}) AS {which}" for which, member in _MEMBERS.items())
    before = ", ".join(
        f"CAST(sum({which}) OVER (PARTITION BY user_row ORDER BY ts) AS BIGINT) AS {which}_before" for which in _MEMBERS
    )
    connection.execute(
        f"""
        CREATE TABLE met AS
        WITH moments AS (SELECT user_row, ts, {counts} FROM positives WHERE ts IS NOT NULL GROUP BY user_row, ts)
        SELECT user_row AS of_user, ts + 1 AS since, {before} FROM moments
        """
    )
