"""Prepares an Avazu-shaped log with pandas, histories as texts, user by user.

python benchmarks/peers/pandas_script.py events.csv DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

ITEM = ["adid", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"]


def find_cut(hours: pd.Series, share: float) -> str:
    """Returns the time from which the share of the rows is nearest to `share`."""
    later = hours.value_counts().sort_index(ascending=False).cumsum()
    return str((later - share * len(hours)).abs().idxmin())


def main() -> None:
    """Reads a log and writes `rows.parquet`."""
    log, directory = map(Path, sys.argv[1:])
    events = pd.read_csv(log, dtype=str)
    events["click"] = events["click"].astype(int)
    valid, test = find_cut(events["hour"], 0.2), find_cut(events["hour"], 0.1)
    events["split"] = (events["hour"] >= valid).astype(int) + (events["hour"] >= test).astype(int)
    items = events.drop_duplicates("adid", keep="last")[ITEM].sort_values("adid", ignore_index=True)
    items["item_row"] = range(len(items))
    rows = events.drop(columns=ITEM[1:]).merge(items, on="adid").sort_values(["device_id", "hour"], kind="stable")

    def histories(user: pd.DataFrame) -> pd.Series:
        clicked, found, waiting, until = [], [], [], None
        for item, click, hour, split in zip(user["item_row"], user["click"], user["hour"], user["split"], strict=True):
            now = min(hour, test) if split == 2 else min(hour, valid)
            if now != until:
                clicked, waiting, until = clicked + waiting, [], now
            found.append(" ".join(clicked[-20:]))
            if click:
                waiting.append(str(item))
        return pd.Series(found, index=user.index)

    rows["history"] = pd.concat([histories(user) for _, user in rows.groupby("device_id", sort=False)])
    rows.sort_index().to_parquet(directory / "rows.parquet")


if __name__ == "__main__":
    main()
