"""Which row of the user table, and which version of an item, holds at an event.

Without a time column an id has one row, its latest. With one (`items_time`, `users_time`) an event sees the latest row
whose time is at or before its own, so that a value of the future never trains the past; of rows at one time the last in
the file holds. An event before the first row sees no row. Of users, an event without a time sees none either; of items
it sees the version at time 0, which is the time that such an event has in training.

A user who has no row at all has the latest values that an earlier run knew (`prepare --since`), where there is one.
"""

from __future__ import annotations

import duckdb


def create_user_versions(connection: duckdb.DuckDBPyConnection, *, timed: bool) -> None:
    """Creates `user_versions`: row number, place in the table, and time where `timed`, of the rows that may hold."""
    table = "user_rows" if timed else "user_latest"
    connection.execute(
        f"""
        CREATE TABLE user_versions AS
        SELECT user_row AS version_of, place{", ts AS since" if timed else ""}
        FROM {table} JOIN users ON id = user_id
        """
    )


def create_carried_users(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates `carried_users`: those of `earlier_users`, with their latest values, who have no `user_versions`."""
    connection.execute(
        """
        CREATE TABLE carried_users AS
        SELECT g.* FROM earlier_users AS g ANTI JOIN user_versions AS v ON v.version_of = g.user_row
        """
    )


def join(side: str, *, timed: bool) -> str:
    """SQL that joins the row that holds to events `k`."""
    versions = f"{side}_versions"
    held = f"JOIN {versions} ON {versions}.version_of = k.{side}_row"
    time = "coalesce(k.ts, 0)" if side == "item" else "k.ts"
    return f"ASOF LEFT {held} AND {time} >= {versions}.since" if timed else f"LEFT {held}"
