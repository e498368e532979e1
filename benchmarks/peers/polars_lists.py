"""Prepares an Avazu-shaped log with polars, histories as lists: the script that an engineer would write by hand.

    python benchmarks/peers/polars_lists.py events.csv DIRECTORY

The last 20 clicked items are a list per click; each row takes that of its user's last earlier click.
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import polars_rows

LENGTH = 20


def main() -> None:
    """Reads a log and writes `rows.parquet`."""
    log, directory = map(Path, sys.argv[1:])
    rows = polars_rows.read(log)
    last = [pl.col("item_row").shift(LENGTH - 1 - number).over("user_row") for number in range(LENGTH)]
    clicks = polars_rows.find_clicks(rows).select(
        "user_row", "hour", pl.concat_list(last).list.drop_nulls().alias("history")
    )
    polars_rows.join_earlier(rows, clicks).drop("until", "hour_right").write_parquet(directory / "rows.parquet")


if __name__ == "__main__":
    main()
