"""Preparation in plain Python, row by row: what the SQL must agree with."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from typing import Any

Row = dict[str, Any]


def used_rows(log: list[Row], positive: Any = None, exclude: Any = None) -> list[Row]:
    """Rows with their place, label decided, excluded ones left out."""
    rows = []
    for place, row in enumerate(log):
        if exclude and exclude(row):
            continue
        label = int(row.get("label", 1) == 1 and (positive is None or positive(row)))
        rows.append({**row, "place": place, "label": label})
    return rows


def leave_last_out(rows: list[Row]) -> list[str]:
    positives = defaultdict(list)
    for row in rows:
        if row["label"]:
            positives[row["user"]].append((row["time"], row["place"]))
    found = []
    for row in rows:
        moments = sorted(positives[row["user"]])
        now = (row["time"], row["place"])
        if len(moments) < 3 or now < moments[-2]:
            found.append("train")
        else:
            found.append("valid" if now < moments[-1] else "test")
    return found


def time_split(rows: list[Row], valid: float, test: float) -> list[str]:
    times = sorted({row["time"] for row in rows})
    total = len(rows)

    def rows_from(cut: float) -> int:
        return sum(row["time"] >= cut for row in rows)

    def nearest(target: float, below: float) -> float:
        cuts = [cut for cut in times[1:] if cut < below]
        return min(cuts, key=lambda cut: (abs(rows_from(cut) - target), -rows_from(cut)), default=below)

    test_cut = nearest(test * total, math.inf) if test else math.inf
    valid_cut = nearest((valid + test) * total, test_cut) if valid else test_cut
    return ["test" if row["time"] >= test_cut else "valid" if row["time"] >= valid_cut else "train" for row in rows]


def histories(rows: list[Row], splits: list[str]) -> list[list[str]]:
    """The items of each row's history, oldest first."""
    found = []
    for row, split in zip(rows, splits, strict=True):
        allowed = ("train", "valid") if split == "test" else ("train",)
        earlier = [
            (other["time"], other["place"], other["item"])
            for other, other_split in zip(rows, splits, strict=True)
            if other["user"] == row["user"]
            and other["label"]
            and other_split in allowed
            and other["time"] is not None
            and row["time"] is not None
            and other["time"] < row["time"]
        ]
        found.append([item for _, _, item in sorted(earlier)])
    return found


def latest(rows: list[Row], key: str, time: str | None = "time") -> dict[str, Row]:
    found: dict[str, tuple[Any, Row]] = {}
    for place, row in enumerate(rows):
        stamp = row.get(time) if time else None
        rank = (-math.inf if stamp is None else stamp, place)
        if row[key] not in found or rank >= found[row[key]][0]:
            found[row[key]] = (rank, row)
    return {name: row for name, (_, row) in found.items()}


def quantiles(values: list[float], buckets: int) -> list[float]:
    """The smallest value whose cumulated share reaches i/buckets."""
    ordered = sorted(values)
    return sorted({ordered[math.ceil(index * len(ordered) / buckets) - 1] for index in range(1, buckets)})


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return mean, deviation or 1.0


def share_at_or_below(ordered: list[float], value: float) -> float:
    return bisect.bisect_right(ordered, value) / len(ordered)
