"""Prepares an Avazu-shaped log with polars, histories as offsets into one sequence of clicked items.

python benchmarks/peers/polars_offsets.py events.csv DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import polars_rows


def main() -> None:
    """Reads a log; writes `rows.parquet` and `sequence.parquet`, of which a row's history is start to end."""
    log, directory = map(Path, sys.argv[1:])
    rows = polars_rows.read(log)
    sequence = polars_rows.find_clicks(rows).sort("user_row", maintain_order=True).with_row_index("at")
    sequence.select("item_row").write_parquet(directory / "sequence.parquet")
    clicks = sequence.select(
        "user_row",
        "hour",
        pl.col("at").first().over("user_row").alias("history_start"),
        (pl.col("at") + 1).alias("history_end"),
    ).sort("hour", maintain_order=True)
    polars_rows.join_earlier(rows, clicks).drop("until", "hour_right").write_parquet(directory / "rows.parquet")


if __name__ == "__main__":
    main()
