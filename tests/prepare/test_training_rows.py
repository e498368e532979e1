"""Training rows in parts: whichever way the log is read, the rows are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.prepare.test_preparation import experiment, random_log, rows_of, tree, write_csv
from twotower_tf.config import LeaveLastOut, RandomSplit, TimeSplit
from twotower_tf.prepare import training_rows
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared

SPLITS = ("train", "valid", "test")


def log(order: str) -> list[dict[str, Any]]:
    rows = random_log(11, rows=900, users=40, items=30, times=200)
    return sorted(rows, key=lambda row: row["time"]) if order == "in order" else rows


@pytest.mark.parametrize("order", ["in order", "shuffled"])
@pytest.mark.parametrize("split", [TimeSplit(0.2, 0.2), RandomSplit(0.2, 0.2), LeaveLastOut()])
def test_parts_hold_the_same_rows_however_the_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, split: Any
) -> None:
    write_csv(tmp_path / "events.csv", log(order))
    config = experiment(tmp_path, split=split)
    prepare_log(config, tmp_path / "one")
    expected = {name: rows_of(Prepared.open(tmp_path / "one"), name) for name in SPLITS}
    monkeypatch.setattr(training_rows, "count_part_rows", lambda columns: 64)
    found = []
    for most_read in (10**9, 0):  # short ranges of the log, side by side; one sort of the whole
        monkeypatch.setattr(training_rows, "_MOST_READ", most_read)
        prepare_log(config, tmp_path / f"run{most_read}", threads=3)
        prepared = Prepared.open(tmp_path / f"run{most_read}")
        for name in SPLITS:
            assert len(prepared.parts(name)) == -(-len(expected[name]) // 64)
            assert rows_of(prepared, name) == expected[name]
        found.append(tree(prepared.paths.root))
    assert found[0] == found[1]


def test_what_was_shown_and_not_taken_is_kept_for_use_as_negatives(tmp_path: Path) -> None:
    rows = log("shuffled")
    write_csv(tmp_path / "events.csv", rows)
    prepare_log(experiment(tmp_path, split=TimeSplit(0, 0.2), positive="dwell < 2"), tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    users, items = prepared.user_ids(), prepared.item_ids()
    kept = prepared.columns("train", ["user_row", "item_row", "timestamp", "label"])
    found = [
        (time, users[user], items[item])
        for user, item, time, label in zip(*(column.tolist() for column in kept.values()), strict=True)
        if not label
    ]
    last = max(row["timestamp"] for row in rows_of(prepared, "train"))
    expected = [
        (row["time"], row["user"], row["item"])
        for row in sorted(rows, key=lambda row: row["time"])
        if row["time"] <= last and not (row["label"] and row["dwell"] is not None and row["dwell"] < 2)
    ]
    assert found == expected
    assert any(row["label"] for row in rows)


def test_wide_rows_make_short_parts() -> None:
    assert [training_rows.count_part_rows(columns) for columns in (6, 64, 65, 100, 100_000)] == [
        1 << 18, 1 << 18, 1 << 17, 1 << 17, 1 << 14,
    ]  # fmt: skip
