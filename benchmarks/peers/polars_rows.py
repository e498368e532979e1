"""What both polars scripts do with an Avazu-shaped log: reading, the joins of users and items, the split by time.

The log is in the order of time already, which the scripts check and rely on. An item has the values of its last row in
the log, as a user has its number.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

ITEM = ("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category")
VALID, TEST = 0.1, 0.1


def read(log: Path) -> pl.DataFrame:
    """Returns the rows with numbers of users and items, the items' values, the split, and `until`.

    `until` is the time before which a row's history ends: its own, at most the end of what its split may know.
    """
    events = pl.read_csv(log, schema_overrides={"click": pl.Int8, "hour": pl.Int32}, infer_schema=False)
    assert events["hour"].is_sorted()
    users = events.select(pl.col("device_id").unique().sort()).with_row_index("user_row")
    items = events.select("adid", *ITEM).unique("adid", keep="last").sort("adid").with_row_index("item_row")
    rows = events.drop(ITEM).join(users, on="device_id", maintain_order="left")
    rows = rows.join(items, on="adid", maintain_order="left")
    valid, test = find_cut(events["hour"], VALID + TEST), find_cut(events["hour"], TEST)
    hour = pl.col("hour")
    return rows.with_columns(
        (hour >= valid).cast(pl.Int8).add((hour >= test).cast(pl.Int8)).alias("split"),
        pl.when(hour >= test).then(test).when(hour >= valid).then(valid).otherwise(hour).cast(pl.Int32).alias("until"),
    )


def find_cut(hours: pl.Series, share: float) -> int:
    """Returns the time from which the share of the rows is nearest to `share`."""
    counts = hours.value_counts().sort("hour", descending=True).with_columns(pl.col("count").cum_sum())
    return int(counts.sort((pl.col("count") - share * len(hours)).abs())["hour"][0])


def find_clicks(rows: pl.DataFrame) -> pl.DataFrame:
    """Returns user, item and time of the clicks that histories have: those of training and validation."""
    return rows.filter((pl.col("click") == 1) & (pl.col("split") < 2)).select("user_row", "item_row", "hour")


def join_earlier(rows: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    """Joins each row with its user's last click before `until`; of clicks at one time the last in the log."""
    until = rows.lazy().with_columns(pl.col("until").set_sorted())
    return until.join_asof(
        clicks.lazy(),
        left_on="until",
        right_on="hour",
        by="user_row",
        allow_exact_matches=False,
        coalesce=True,
        check_sortedness=False,
    ).collect()
