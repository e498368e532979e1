"""Which row of the item or user table holds at an event.

Without a time column an id has one row, its latest. With one (`items_time`, `users_time`) an event sees the latest row
whose time is at or before its own, so that a value of the future never trains the past; of rows at one time the last in
the file holds. An event before the first row, or without a time, sees no row.
"""

from __future__ import annotations

from typing import Literal

import duckdb

Side = Literal["user", "item"]


def create_versions(connection: duckdb.DuckDBPyConnection, side: Side, *, timed: bool) -> None:
    """Creates `{side}_versions`: row number, place in the table, and time where `timed`, of the rows that may hold."""
    table = f"{side}_rows" if timed else f"{side}_latest"
    connection.execute(
        f"""
        CREATE TABLE {side}_versions AS
        SELECT {side}_row AS version_of, place{", ts AS since" if timed else ""}
        FROM {table} JOIN {side}s ON id = {side}_id
        """
    )


def join(side: str, *, timed: bool) -> str:
    """SQL that joins the row that holds to events `k`."""
    versions = f"{side}_versions"
    held = f"JOIN {versions} ON {versions}.version_of = k.{side}_row"
    return f"ASOF LEFT {held} AND k.ts >= {versions}.since" if timed else f"LEFT {held}"
