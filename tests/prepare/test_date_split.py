"""Splits by whole days, on days made by hand, and events that say they come from the future."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from twotower_tf.config import DataConfig, DateSplit, ExperimentConfig, Hash, RandomSplit
from twotower_tf.errors import DataError
from twotower_tf.prepare import schema
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared

SPLITS = ("train", "valid", "test")


def experiment(root: Path, split: Any, **data: Any) -> ExperimentConfig:
    fields = {"events": "log", "user_id": "user", "item_id": "item", "timestamp": "time"}
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), split=split, **(fields | data)),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("user", buckets=10),),
    )


def write(root: Path, days: dict[str, list[str]], header: str = "user,item,time") -> None:
    """One directory per day, with one event `u,iN,TIME` per text."""
    for day, rows in days.items():
        (root / "log" / f"dt={day}").mkdir(parents=True)
        (root / "log" / f"dt={day}" / "part-0.csv").write_text("\n".join([header, *rows]) + "\n")


def items(root: Path) -> dict[str, list[str]]:
    prepared = Prepared.open(root / "run")
    names = prepared.item_ids()
    return {split: [str(names[row]) for row in prepared.columns(split, ["item_row"])["item_row"]] for split in SPLITS}


# an event in the first and the last second of each of five days
FIVE = {
    f"2026010{day}": [f"u,i{day}a,2026-01-0{day}T00:00:00Z", f"u,i{day}b,2026-01-0{day}T23:59:59Z"]
    for day in range(1, 6)
}


@pytest.mark.parametrize("partitioned", [True, False])
@pytest.mark.parametrize(
    ("split", "train", "valid", "test"),
    [
        (DateSplit(3), "123", "4", "5"),
        (DateSplit(2, 1, 1), "23", "4", "5"),
        (DateSplit(1, 2, 1), "2", "34", "5"),
        (DateSplit(9, 0, 2), "123", "", "45"),
        (DateSplit(2, 0, 0), "45", "", ""),
        (DateSplit(1, 1, 1, until="20260104"), "2", "3", "4"),
        (DateSplit(1, 1, 1, until="2026-01-03"), "1", "2", "3"),
        (DateSplit(3, 1, 2, until="20260106"), "123", "4", "5"),  # the last day is empty
    ],
)
def test_days(tmp_path: Path, partitioned: bool, split: DateSplit, train: str, valid: str, test: str) -> None:
    if partitioned:
        write(tmp_path, FIVE)
    else:
        write(tmp_path, {"20260131": [row for rows in FIVE.values() for row in rows]})
        (tmp_path / "log" / "dt=20260131").rename(tmp_path / "log" / "all")
    manifest = prepare_log(experiment(tmp_path, split), tmp_path / "run")
    assert items(tmp_path) == {
        name: [f"i{day}{half}" for day in days for half in "ab"]
        for name, days in zip(SPLITS, (train, valid, test), strict=True)
    }
    used = 2 * len(train + valid + test)
    outside = {} if partitioned or used == 10 else {"outside the days of data.split": 10 - used}
    assert manifest["rows"] == {
        "read": used if partitioned else 10,
        "used": used,
        "excluded": outside,
        "quarantined": 0,
    }


def test_only_the_directories_of_the_window_are_read(tmp_path: Path) -> None:
    write(tmp_path, FIVE)
    (tmp_path / "log" / "dt=20260101" / "part-0.csv").write_bytes(b"\xff no table at all")
    split = DateSplit(2, 1, 1)
    manifest = prepare_log(experiment(tmp_path, split), tmp_path / "run")
    assert [entry["path"] for entry in manifest["inputs"]] == [f"log/dt=2026010{day}/part-0.csv" for day in range(2, 6)]
    sources = schema.find_table(experiment(tmp_path, split).data, "events")
    assert [source.name for source in sources] == [f"log/dt=2026010{day}/part-0.csv" for day in range(2, 6)]


def test_days_of_the_directories_alone(tmp_path: Path) -> None:
    """No time column: the directory is the day, written either way."""
    write(tmp_path, {"20260101": ["u,x"], "2026-01-02": ["u,y"], "20260103": ["u,z"]}, "user,item")
    manifest = prepare_log(experiment(tmp_path, DateSplit(1), timestamp=""), tmp_path / "run")
    assert items(tmp_path) == {"train": ["x"], "valid": ["y"], "test": ["z"]}
    assert manifest["time_range"] is None


def test_the_time_decides_where_directory_and_time_differ(tmp_path: Path) -> None:
    """A directory by local time holds the end of the UTC day before, and the beginning of the next."""
    write(
        tmp_path,
        {
            "20260101": ["u,a,2026-01-01T12:00:00"],
            "20260102": ["u,b,2026-01-01T23:00:00", "u,c,2026-01-02T12:00:00"],
            "20260103": ["u,d,2026-01-02T23:00:00", "u,e,2026-01-03T12:00:00", "u,f,2026-01-04T01:00:00"],
        },
    )
    manifest = prepare_log(experiment(tmp_path, DateSplit(1)), tmp_path / "run")
    assert items(tmp_path) == {"train": ["a", "b"], "valid": ["c", "d"], "test": ["e"]}
    assert manifest["rows"]["excluded"] == {"outside the days of data.split": 1}


def test_exclusion_by_rule_and_by_day_are_counted_apart(tmp_path: Path) -> None:
    rows = ["u,old,1,2026-01-01", "u,x,1,2026-01-03", "u,y,9,2026-01-03", "u,z,1,2026-01-04", "u,,1,2026-01-04"]
    write(tmp_path, {"20260104": rows}, "user,item,bot,time")
    manifest = prepare_log(experiment(tmp_path, DateSplit(1, 0, 1), exclude="bot > 5"), tmp_path / "run")
    assert manifest["rows"] == {
        "read": 5,
        "used": 2,
        "excluded": {"exclude": 1, "outside the days of data.split": 1},
        "quarantined": 1,
    }


def test_a_time_before_1970_has_its_own_day(tmp_path: Path) -> None:
    write(tmp_path, {"20260104": ["u,x,-86401", "u,y,-86400", "u,z,-1"]})
    (tmp_path / "log" / "dt=20260104").rename(tmp_path / "log" / "all")
    prepare_log(experiment(tmp_path, DateSplit(1, 0, 1)), tmp_path / "run")
    assert items(tmp_path) == {"train": ["x"], "valid": [], "test": ["y", "z"]}


REFUSED: dict[str, tuple[dict[str, list[str]], DateSplit, dict[str, Any], str]] = {
    "no day of the window": (
        FIVE,
        DateSplit(3, until="20250101"),
        {},
        "data.split: no directory of data.events is within its days, 2024-12-28 to 2025-01-01; "
        "found 2026-01-01 to 2026-01-05",
    ),
    "an invalid day in a directory": (
        FIVE | {"latest": ["u,x,1"]},
        DateSplit(3),
        {},
        "log/dt=latest/part-0.csv: dt: invalid day 'latest' (expected e.g. dt=20260131)",
    ),
    "neither time nor directories": (
        {"all": ["u,x,1"]},
        DateSplit(3),
        {"timestamp": ""},
        "data.split: DateSplit needs the event's time, or directories dt=YYYYMMDD/; log/all/part-0.csv has neither; "
        "name data.timestamp",
    ),
    "nothing left": (
        {"all": ["u,x,2026-01-01", "u,y,2026-01-02"]},
        DateSplit(3, until="20250101"),
        {},
        "data.events: log/all/part-0.csv: no row can be used: 0 excluded by data.exclude, "
        "2 outside the days of data.split, 0 malformed",
    ),
    "no event has a time": (
        {"all": ["u,x,", "u,y,"]},
        DateSplit(3),
        {},
        "data.split: no event has a day; name the column of the events' times in data.timestamp, or use RandomSplit()",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path: Path, case: str) -> None:
    days, split, fields, message = REFUSED[case]
    write(tmp_path, days)
    if "all" in days:
        (tmp_path / "log" / "dt=all").rename(tmp_path / "log" / "all")
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, split, **fields), tmp_path / "run")
    assert str(error.value) == message


@pytest.mark.parametrize("split", [RandomSplit(0.0, 0.0), DateSplit(9, 0, 0)])
def test_an_event_of_the_future_is_set_aside(tmp_path: Path, split: Any) -> None:
    now = int(time.time())
    rows = [f"u,x,{now - 60}", f"u,y,{now + 3600}", f"u,z,{now + 3 * 86400}", "u,w,99999999999"]
    write(tmp_path, {"20260104": rows})
    (tmp_path / "log" / "dt=20260104").rename(tmp_path / "log" / "all")
    manifest = prepare_log(experiment(tmp_path, split), tmp_path / "run")
    assert items(tmp_path)["train"] == ["x", "y"]
    assert manifest["rows"]["quarantined"] == 2
    text = (tmp_path / "run" / "prepared" / "quarantine.jsonl").read_text()
    assert [(row["line"], row["reason"]) for row in map(json.loads, text.splitlines())] == [
        (4, f"time '{now + 3 * 86400}' lies in the future"),
        (5, "time '99999999999' lies in the future"),
    ]
