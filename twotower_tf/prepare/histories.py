"""Computes histories (a user's positives strictly before an event) and the row versions that are valid at an event.

A user's positives are one array, ordered by time and place in the log; an event's history is a slice of it. The array
`train` has the training positives, for training and validation rows; `seen` has the validation positives too, for test
rows. A slice starts with the user's first position and ends before the first positive that is not strictly earlier than
the event: events at the same time are in none of each other's histories. Without a time column the slice is all of the
user's positives in the array. An event without a time, in a log that has times, has no history and is in no history.

Without a time column an id has one row in its table, the latest. With one (`items_time`, `users_time`) an event is
joined with the latest row whose time is at or before its own, so that no later value enters a training row; of rows at
the same time the last in the file counts. An event before the first row is joined with none. An event without a time is
joined with no user row, but with the item version at time 0, its time in training.

A user without any row has the latest values of the previous run (`prepare --since`), where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twotower_tf.artifacts import PreparedPaths
from twotower_tf.prepare import ordered_rows
from twotower_tf.prepare.event_lookup import NO_TIME
from twotower_tf.prepare.ordered_rows import AsOfJoin
from twotower_tf.sql import Connection
from twotower_tf.tables import parquet_parts, timestamps
from twotower_tf.tables.duckdb_engine import fetch_row

_MEMBERS = {"train": "split = 0", "seen": "split <= 1"}


def count_positives(connection: Connection, past: str) -> None:
    """Creates `positives` and `user_counts`.

    `positives` has user_row, item_row, ts (epoch microseconds), place and split of events that can be in a history.
    `user_counts` has user_row, user_id, the user's positives and their first positions in both arrays. `past` is a
    table like `positives` of a previous run, whose rows are before all others, or "".
    """
    columns = "user_row, item_row, ts, place, split"
    connection.execute(
        "CREATE TABLE positives AS "
        f"SELECT {columns} FROM split_events WHERE label = 1 AND split <= 1"
        f"{f' UNION ALL SELECT {columns} FROM {past}' if past else ''}"
    )
    counts = ", ".join(f"count(*) FILTER ({member}) AS {which}_count" for which, member in _MEMBERS.items())
    known = ", ".join(f"coalesce({which}_count, 0) AS {which}_count" for which in _MEMBERS)
    counted = ordered_rows.add_running_sums(
        connection,
        f"SELECT user_row, user_id, {known} FROM users "
        f"LEFT JOIN (SELECT user_row, {counts} FROM positives GROUP BY user_row) AS counts USING (user_row)",
        {f"{which}_end": f"{which}_count" for which in _MEMBERS},
        order="user_row",
    )
    starts = ", ".join(f"{which}_end - {which}_count AS {which}_start" for which in _MEMBERS)
    connection.execute(
        f"CREATE TABLE user_counts AS SELECT user_row, user_id, train_count, seen_count, {starts} FROM {counted}"
    )


def write_sequences(connection: Connection, paths: PreparedPaths, past: str, *, times: bool) -> None:
    """Writes the arrays, the start of each user's part, and all positives for a run that continues this one.

    With `times` the positives' times are arrays too, for histories with `time_gaps`.
    """
    continued = f" UNION ALL SELECT user_row, item_row, ts, place FROM {past}" if past else ""
    parquet_parts.write_parts(
        connection,
        "SELECT user_row, item_row, ts AS micros, place FROM (SELECT user_row, item_row, ts, place FROM split_events "
        f"WHERE label = 1{continued}) ORDER BY user_row, ts NULLS LAST, place",
        paths.positives,
    )
    for which, member in _MEMBERS.items():
        positives, users = fetch_row(
            connection, f"SELECT CAST(sum({which}_count) AS BIGINT), count(*) FROM user_counts"
        )
        files: dict[Path, npt.DTypeLike] = {paths.sequences(which): np.int32}
        columns = "item_row"
        if times:
            files[paths.sequence_times(which)] = np.int64
            columns += f", coalesce({timestamps.seconds_sql('ts')}, 0) AS seconds"
        parquet_parts.write_arrays(
            connection,
            f"SELECT {columns} FROM positives WHERE {member} ORDER BY user_row, ts NULLS LAST, place",
            files,
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


def create_rows_with_history(
    connection: Connection, timed: bool, versions: Mapping[str, bool], keys: Sequence[str]
) -> None:
    """Creates `rows_with_history` from `split_events` on a cluster, in the order of split, time and place.

    Its columns: those of `split_events` (with the optional `keys`), `history_start`, `history_end`, and for each of
    `versions` ("user", "item"; with times or not) the place of the table's row that is valid at the event (`user_at`,
    `item_at`).
    """
    carried = "".join(f", {name}" for name in keys)
    joins = [
        AsOfJoin(f"{side}_versions", "version_of", "since", f"{side}_row", f"{side}_time", {f"{side}_at": "place"})
        for side, dated in versions.items()
        if dated
    ]
    lengths = {which: f"{which}_count" for which in _MEMBERS}
    if timed:
        _count_before(connection)
        lengths = {which: f"coalesce({which}_before, 0)" for which in _MEMBERS}
        columns = {f"{which}_before": f"{which}_before" for which in _MEMBERS}
        joins.append(AsOfJoin("positives_before", "of_user", "since", "user_row", "user_time", columns))
    columns_of_user = "train_start, train_count, seen_start, seen_count"
    joined = ordered_rows.join_as_of(
        connection,
        f"SELECT k.*, k.ts AS user_time, coalesce(k.ts, 0) AS item_time, {columns_of_user} "
        "FROM split_events AS k JOIN user_counts AS u ON u.user_row = k.user_row",
        joins,
    )
    undated = [side for side, dated in versions.items() if not dated]
    at = "".join(f", {f'{side}_versions.place AS ' if side in undated else ''}{side}_at" for side in versions)
    latest = " ".join(f"LEFT JOIN {side}_versions ON {side}_versions.version_of = k.{side}_row" for side in undated)
    connection.execute(
        f"""
        CREATE TABLE rows_with_history AS
        SELECT k.place, user_row, item_row, label, ts, split{carried},
               CASE WHEN split = 2 THEN seen_start ELSE train_start END AS history_start,
               CASE WHEN split = 2 THEN seen_start + {lengths["seen"]}
                    ELSE train_start + {lengths["train"]} END AS history_end{at}
        FROM {joined} AS k {latest}
        ORDER BY split, ts NULLS LAST, k.place
        """
    )


def create_ordered_events(connection: Connection, versions: Mapping[str, bool]) -> str:
    """Returns the name of a table with `split_events` in the order of split, time and place: itself where it is.

    Where `versions` has users, with times or not, `user_at` is the place of the row of their table that is valid at the
    event.
    """
    if "user" not in versions and _is_ordered(connection):
        return "split_events"
    rows = "split_events AS k"
    at = ""
    if versions.get("user"):
        join = AsOfJoin("user_versions", "version_of", "since", "user_row", "ts", {"user_at": "place"})
        rows = f"{ordered_rows.join_as_of(connection, 'SELECT * FROM split_events', [join])} AS k"
    elif "user" in versions:
        rows += " LEFT JOIN user_versions AS v ON v.version_of = k.user_row"
        at = ", v.place AS user_at"
    connection.execute(
        f"CREATE TABLE ordered_events AS SELECT k.*{at} FROM {rows} ORDER BY split, ts NULLS LAST, k.place"
    )
    return "ordered_events"


def _is_ordered(connection: Connection) -> bool:
    """Tests whether `split_events` is in the order of split, time and place."""
    columns = {"split": "split", "ts": f"coalesce(ts, {NO_TIME})", "place": "place"}
    here = ", ".join(f"{value} AS {name}" for name, value in columns.items())
    before = ", ".join(f"lag({value}) OVER () AS {name}_before" for name, value in columns.items())
    later = "ts > ts_before OR (ts = ts_before AND place > place_before)"
    (ordered,) = fetch_row(
        connection,
        f"SELECT coalesce(bool_and(split > split_before OR (split = split_before AND ({later}))), true) "
        f"FROM (SELECT {here}, {before} FROM split_events)",
    )
    return bool(ordered)


def _count_before(connection: Connection) -> None:
    """Creates `positives_before`: the number of a user's positives before each time, until the user's next row.

    A positive counts from the microsecond after its own time: strictly before, whatever the ties.
    """
    counts = ", ".join(f"count(*) FILTER ({member}) AS {which}" for which, member in _MEMBERS.items())
    moments = ordered_rows.add_running_sums(
        connection,
        f"SELECT user_row, ts, {counts} FROM positives WHERE ts IS NOT NULL GROUP BY user_row, ts",
        {f"{which}_before": which for which in _MEMBERS},
        order="ts",
        key="user_row",
    )
    before = ", ".join(f"{which}_before" for which in _MEMBERS)
    connection.execute(
        f"CREATE TABLE positives_before AS SELECT user_row AS of_user, ts + 1 AS since, {before} FROM {moments}"
    )


def create_user_versions(connection: Connection, *, timed: bool, continued: bool) -> None:
    """Creates `user_versions`: row number, place in the table, and time where `timed`, of each version.

    Where a previous run is continued, `carried_users` has those of `previous_users`, with their latest values, who have
    no version.
    """
    table, since = ("user_rows", ", ts AS since") if timed else ("user_latest", "")
    connection.execute(
        "CREATE TABLE user_versions AS "
        f"SELECT user_row AS version_of, place{since} FROM {table} JOIN users ON id = user_id"
    )
    if continued:
        connection.execute(
            "CREATE TABLE carried_users AS "
            "SELECT g.* FROM previous_users AS g ANTI JOIN user_versions AS v ON v.version_of = g.user_row"
        )
