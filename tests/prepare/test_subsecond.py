"""Events within one second: order, split, history and as-of joins go by the full time, features by whole seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.engines import assert_engines_agree
from tests.prepare.test_preparation import rows_of, write_csv
from twotower_tf.config import (
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    LeaveLastOut,
    Numeric,
    RandomSplit,
    TimeSplit,
)
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.prepare.spark.spark_session import SparkOptions
from twotower_tf.score import users_from_events

START = 1736499600  # 2025-01-10 09:00 UTC
# one user, one second; in the file the latest comes first, so that the place in the file says the opposite
MICROS = {"e": 900_001, "d": 900_000, "c": 500_000, "b": 100_000, "a": 0}

FORMS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "seconds": ("epoch seconds", lambda micros: f"{START}.{micros:06d}"),
    "milliseconds": ("epoch milliseconds", lambda micros: f"{START}{micros // 1000:03d}.{micros % 1000:03d}"),
    "microseconds": ("epoch microseconds", lambda micros: f"{START}{micros:06d}"),
    "nanoseconds": ("epoch nanoseconds", lambda micros: f"{START}{micros:06d}999"),
    "iso": ("ISO 8601", lambda micros: f"2025-01-10T10:00:00.{micros:06d}+01:00"),
}
ARROW = {
    f"{unit} {zone}": pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC", "Asia/Kathmandu")
}


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), user_id="user", item_id="item", timestamp="time", **data),
        item_features=(Hash("item", buckets=9), *((Numeric("price"),) if data.get("items_time") else ())),
        user_features=(Hash("user", buckets=9), History(of="item")),
    )


def check_last_out(run_dir: Path, form: str) -> None:
    """e is the last and is test, d the one before and is validation; each knows what was strictly before it."""
    prepared = Prepared.open(run_dir)
    items = prepared.item_ids()
    found = {}
    for split in ("train", "valid", "test"):
        sequence = prepared.sequence("seen" if split == "test" else "train")
        for row in rows_of(prepared, split):
            before = "".join(items[item] for item in sequence[row["history_start"] : row["history_end"]])
            found[items[row["item_row"]]] = (split, before, row["timestamp"])
    assert found == {
        "a": ("train", "", START),
        "b": ("train", "a", START),
        "c": ("train", "ab", START),
        "d": ("valid", "abc", START),
        "e": ("test", "abcd", START),
    }
    assert [row["item_row"] for row in rows_of(prepared, "train")] == [0, 1, 2]
    manifest = json.loads(prepared.paths.manifest.read_text())
    assert (manifest["time_form"], manifest["time_range"]) == (form, [START, START])
    assert prepared.items(["last_event"])["last_event"].to_pylist() == [START] * 5


@pytest.mark.parametrize("form", FORMS)
def test_the_last_event_of_a_second_is_the_last(tmp_path: Path, form: str) -> None:
    name, written = FORMS[form]
    write_csv(
        tmp_path / "events.csv", [{"user": "u", "item": item, "time": written(at)} for item, at in MICROS.items()]
    )
    prepare_log(experiment(tmp_path, events="events.csv", split=LeaveLastOut()), tmp_path / "run")
    check_last_out(tmp_path / "run", name)


@pytest.mark.parametrize("kind", ARROW)
def test_parquet_timestamps_of_every_unit_and_zone(tmp_path: Path, kind: str) -> None:
    moments = pa.array([START * 10**6 + at for at in MICROS.values()], pa.timestamp("us", "UTC"))
    if ARROW[kind].tz is None:
        moments = moments.cast(pa.timestamp("us"))
    table = pa.table({"user": ["u"] * 5, "item": list(MICROS), "time": moments.cast(ARROW[kind])})
    pq.write_table(table, tmp_path / "events.parquet")
    prepare_log(experiment(tmp_path, events="events.parquet", split=LeaveLastOut()), tmp_path / "run")
    check_last_out(tmp_path / "run", "a time")


@pytest.mark.quality
def test_spark_orders_by_the_full_time_too(tmp_path: Path, spark: SparkOptions) -> None:
    write_csv(
        tmp_path / "events.csv",
        [{"user": "u", "item": item, "time": FORMS["milliseconds"][1](at)} for item, at in MICROS.items()],
    )
    config = experiment(tmp_path, events="events.csv", split=LeaveLastOut())
    assert_engines_agree(config, tmp_path / "both", spark)


def test_a_time_split_cuts_within_a_second(tmp_path: Path) -> None:
    rows = [{"user": f"u{at % 3}", "item": f"i{at % 5}", "time": START * 1000 + at} for at in range(0, 1000, 10)]
    write_csv(tmp_path / "events.csv", rows)
    config = experiment(tmp_path, events="events.csv", split=TimeSplit(0.1, 0.1))
    manifest = prepare_log(config, tmp_path / "run")
    assert {split: counts["rows"] for split, counts in manifest["splits"].items()} == {
        "train": 80,
        "valid": 10,
        "test": 10,
    }


def test_a_row_of_the_item_table_holds_from_its_microsecond_on(tmp_path: Path) -> None:
    events = [{"user": "u", "item": "i", "time": f"2025-01-10T09:00:00.{at:06d}Z"} for at in (0, 399_999, 400_000)]
    write_csv(tmp_path / "events.csv", [*events, {"user": "w", "item": "j", "time": "2025-01-11"}])
    write_csv(
        tmp_path / "items.csv",
        [
            {"item": "i", "from": f"{START}400", "price": 2},
            {"item": "i", "from": f"{START}000", "price": 1},
        ],
    )
    config = experiment(
        tmp_path, events="events.csv", items="items.csv", items_time="from", split=RandomSplit(0.0, 0.0)
    )
    prepare_log(config, tmp_path / "run")
    prices = [row["item.price"] for row in rows_of(Prepared.open(tmp_path / "run"), "train")]
    assert prices == [1.0, 1.0, 2.0, None]


def test_times_before_1970_are_cut_downwards(tmp_path: Path) -> None:
    times = ["1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:58Z", "1970-01-01T00:00:00.000001Z"]
    write_csv(tmp_path / "events.csv", [{"user": "u", "item": "i", "time": time} for time in times])
    prepare_log(experiment(tmp_path, events="events.csv", split=RandomSplit(0.0, 0.0)), tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "prepared" / "examples" / "train")
    assert table.select(["timestamp", "microsecond"]).to_pylist() == [
        {"timestamp": -2, "microsecond": 0},
        {"timestamp": -1, "microsecond": 999_999},
        {"timestamp": 0, "microsecond": 1},
    ]


def test_the_latest_values_of_a_user_are_those_of_the_last_microsecond(tmp_path: Path) -> None:
    """Across splits too, which are drawn at random."""
    places = range(40)
    rows = [{"user": "u", "item": "i", "time": START * 10**6 + 999 - at, "seen": at} for at in places]
    write_csv(tmp_path / "events.csv", rows)
    base = experiment(tmp_path, events="events.csv", split=RandomSplit(0.4, 0.4))
    config = ExperimentConfig(
        name="test", data=base.data, item_features=base.item_features, user_features=(Numeric("seen"),)
    )
    prepare_log(config, tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    assert min(prepared.num_rows(split) for split in ("train", "valid", "test")) > 0
    users_from_events.build(tmp_path / "users", prepared, config, None, "500MB", 1)
    assert pq.read_table(tmp_path / "users")["seen"].to_pylist() == [0.0]


def test_a_later_run_displaces_values_by_the_microsecond(tmp_path: Path) -> None:
    """Of one second, an event that arrives late does not; of one microsecond, the new event does."""

    def prepare(number: int, micros: dict[str, int], since: Path | None = None) -> Prepared:
        rows = [
            {"user": name, "item": name, "time": FORMS["iso"][1](at), "seen": number, "price": number}
            for name, at in micros.items()
        ]
        write_csv(tmp_path / f"events/{number}.csv", rows)
        base = experiment(tmp_path, events="events", split=RandomSplit(0.0, 0.0))
        config = ExperimentConfig(
            name="test",
            data=base.data,
            item_features=(Hash("item", buckets=9), Numeric("price")),
            user_features=(Hash("user", buckets=9), Numeric("seen")),
        )
        prepare_log(config, tmp_path / f"run{number}", since=since)
        return Prepared.open(tmp_path / f"run{number}")

    prepare(1, {"before": 500_000, "same": 500_000, "after": 500_000, "absent": 500_000})
    prepare(2, {"before": 499_999, "same": 500_000, "after": 500_001}, tmp_path / "run1")
    prepared = prepare(3, {"absent": 1, "after": 500_000, "same": 0}, tmp_path / "run2")
    users = pq.read_table(prepared.paths.users).to_pylist()
    assert {row["user_id"]: row["user.seen"] for row in users} == {"before": 1, "same": 2, "after": 2, "absent": 1}
    items = pq.read_table(prepared.paths.items).to_pylist()
    assert {row["item_id"]: row["price"] for row in items} == {"before": 1, "same": 2, "after": 2, "absent": 1}
    last = {"before": 500_000, "same": 500_000, "after": 500_001, "absent": 500_000}
    assert {row["item_id"]: row["last_event_microsecond"] for row in items} == last
    assert {row["user_id"]: row["last_event_microsecond"] for row in users} == last
    assert {row["last_event"] for row in (*users, *items)} == {START}
    assert "last_event_microsecond" not in prepared.items().column_names
