"""Measures whether items are added to the catalogue while the log runs."""

from __future__ import annotations

import math

from twotower_tf.onboarding.column_profile import Moment, TableProfile
from twotower_tf.sql import Connection
from twotower_tf.tables.duckdb_engine import fetch_row

_BINS = 500  # of the log's time
_CHANCE = 0.001  # that an item that was there from the start has no earlier event, at most


def measure_growth(connection: Connection, events: TableProfile, item: str, moment: Moment) -> float:
    """Measures the share of the events whose items were added while the log ran.

    An item with n events that was there from the start has none in the first share s of them all with probability
    (1 - s)^n. Where that is less than 0.001, it was added later.

    Args:
        connection: that has the events.
        events: their profile.
        item: column of the items' ids.
        moment: of the events' times.
    """
    table = events.table
    width = max(1.0, (moment.last - moment.first + 1) / _BINS)
    (share,) = fetch_row(
        connection,
        f"""
        WITH placed AS (
            SELECT {table.text(item)} AS item, floor(({moment.seconds} - {moment.first}) / {width}) AS bin
            FROM {table.name}
        ),
        bins AS (SELECT bin, count(*) AS n FROM placed WHERE bin IS NOT NULL AND item IS NOT NULL GROUP BY bin),
        passed AS (SELECT bin, (sum(n) OVER (ORDER BY bin) - n) / (sum(n) OVER ()) AS before FROM bins),
        items AS (SELECT count(*) AS n, min(bin) AS bin FROM placed WHERE bin IS NOT NULL AND item IS NOT NULL
                  GROUP BY item)
        SELECT coalesce(sum(n) FILTER (n * ln(1 - before) < {math.log(_CHANCE)}) / sum(n), 0)
        FROM items JOIN passed USING (bin)
        """,
    )
    return float(share)
