"""Values of item and user tables as of the event's own time, against a search row by row."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.prepare.engines import assert_engines_agree
from tests.prepare.test_preparation import rows_of, write_csv
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, Numeric, TimeSplit
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.prepare.spark.spark_session import SparkOptions

Row = dict[str, Any]


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    fields: dict[str, Any] = {"items_time": "from", "users_time": "seen_at"} | data
    return ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(root), items="items.csv", users="users.csv", user_id="user", item_id="item", timestamp="time",
            split=TimeSplit(valid_fraction=0.1, test_fraction=0.1), **fields,
        ),
        item_features=(Hash("item", buckets=9), Numeric("price")),
        user_features=(Hash("user", buckets=9), Hash("city", buckets=9), Numeric("visits")),
    )  # fmt: skip


def world(seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    chance = random.Random(seed)
    events = [
        {"user": f"u{chance.randrange(6)}", "item": f"i{chance.randrange(9)}", "time": chance.randrange(40)}
        for _ in range(300)
    ]
    items = [
        {"item": f"i{chance.randrange(8)}", "from": chance.randrange(-5, 45), "price": chance.choice([1, 2.5, "", 7])}
        for _ in range(60)
    ]
    users = [
        {
            "user": f"u{chance.randrange(5)}",
            "seen_at": chance.randrange(40),
            "city": chance.choice(["x", "y", ""]),
            "visits": place,
        }
        for place in range(50)
    ]
    return events, items, users


def held(table: list[Row], key: str, name: str, time_column: str, now: int) -> Row:
    """The latest row at or before `now`; of rows at one time the last."""
    found: Row = {}
    for row in table:
        if row[key] == name and row[time_column] <= now and (not found or row[time_column] >= found[time_column]):
            found = row
    return found


@pytest.mark.parametrize("seed", range(4))
def test_events_see_the_rows_that_held_then(tmp_path: Path, seed: int) -> None:
    events, items, users = world(seed)
    for name, rows in (("events", events), ("items", items), ("users", users)):
        write_csv(tmp_path / f"{name}.csv", rows)
    manifest = prepare_log(experiment(tmp_path), tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    names, ids = prepared.user_ids(), prepared.item_ids()
    training = []
    for split in ("train", "valid", "test"):
        for row in rows_of(prepared, split):
            user, item, now = names[row["user_row"]], ids[row["item_row"]], row["timestamp"]
            of_user, of_item = held(users, "user", user, "seen_at", now), held(items, "item", item, "from", now)
            assert (row["user.city"], row["user.visits"], row["item.price"]) == (
                of_user.get("city") or None,
                of_user.get("visits"),
                None if of_item.get("price", "") == "" else of_item["price"],
            )
            if split == "train" and row["item.price"] is not None:
                training.append(row["item.price"])
    # what is learned of a number is of the values then
    assert prepared.statistics["item"]["price"]["mean"] == pytest.approx(np.mean(training), rel=1e-12)
    # the catalogue has the latest that has begun, whatever the log's end
    for row in prepared.items().to_pylist():
        last = held(items, "item", row["item_id"], "from", 10**9)
        assert row["price"] == (None if last.get("price", "") == "" else last["price"])
    assert manifest["item_columns_as_of"] == ["price"]
    distinct = len({(row["item"], row["from"]) for row in items})
    assert manifest["tables"]["items"] == {"read": 60, "used": distinct, "duplicates": 60 - distinct, "quarantined": 0}


def test_a_row_that_begins_later_does_not_hold_yet(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", [{"user": "a", "item": "x", "time": time} for time in (1, 5, 9)])
    rows = [("x", 0, 1), ("x", 20, 2), ("x", 21, 3), ("new", 20, 4), ("newer", 21, 5)]
    write_csv(tmp_path / "items.csv", [{"item": item, "from": since, "price": price} for item, since, price in rows])
    write_csv(tmp_path / "users.csv", [{"user": "a", "seen_at": 0, "city": "x", "visits": 1}])
    found = {}
    for now in (19, 20, 21, None):
        prepare_log(experiment(tmp_path), tmp_path / f"run-{now}", now=now)
        catalogue = Prepared.open(tmp_path / f"run-{now}").items(["item_id", "price"]).to_pylist()
        found[now] = {row["item_id"]: row["price"] for row in catalogue}
    assert found == {
        19: {"x": 1}, 20: {"new": 4, "x": 2}, 21: {"new": 4, "newer": 5, "x": 3}, None: {"new": 4, "newer": 5, "x": 3},
    }  # fmt: skip


def test_versions_are_the_changes_of_table_and_log(tmp_path: Path) -> None:
    events = [
        {"user": "a", "item": "x", "time": 10, "stock": 5}, {"user": "a", "item": "y", "time": 11, "stock": 1},
        {"user": "b", "item": "x", "time": 12, "stock": 5}, {"user": "b", "item": "x", "time": 20, "stock": 4},
        {"user": "c", "item": "x", "time": 20, "stock": 3}, {"user": "c", "item": "y", "time": 30, "stock": 0},
        {"user": "a", "item": "x", "time": 99, "stock": 9}, {"user": "b", "item": "z", "time": 99, "stock": 8},
    ]  # fmt: skip
    write_csv(tmp_path / "events.csv", events)
    rows = [("x", 15, 1.0, ""), ("x", 16, 1.0, ""), ("x", 30, 2.0, ""), ("cold", 5, 3.0, 7)]
    write_csv(
        tmp_path / "items.csv",
        [{"item": item, "from": since, "price": price, "stock": stock} for item, since, price, stock in rows],
    )
    split = TimeSplit(valid_fraction=0, test_fraction=0.25)
    config = experiment(tmp_path)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, users="", users_time="", split=split),
        item_features=(Hash("item", buckets=9), Numeric("price"), Numeric("stock")),
        user_features=(Hash("user", buckets=9),),
    )
    manifest = prepare_log(config, tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    ids = prepared.item_ids()
    versions = [
        (ids[row["item_row"]], max(row["since"], 0), row["item.stock"], row["item.price"])
        for path in prepared.version_parts()
        for row in pq.read_table(path).to_pylist()
    ]
    # A value of the log at second 10 is known a microsecond later, an item's first one from the beginning; the table's
    # rows hold from their own second. Test events, at 99, reveal nothing, except for the item without other events.
    assert versions == [
        ("cold", 0, None, None), ("cold", 5_000_000, 7.0, 3.0),
        ("x", 0, 5.0, None), ("x", 15_000_000, 5.0, 1.0), ("x", 20_000_001, 3.0, 1.0), ("x", 30_000_000, 3.0, 2.0),
        ("y", 0, 1.0, None), ("y", 30_000_001, 0.0, None),
        ("z", 0, 8.0, None),
    ]  # fmt: skip
    assert manifest["split_times"] == {"train": [10_000_000, 30_000_000], "test": [99_000_000, 99_000_000]}
    assert [row["item.stock"] for row in rows_of(prepared, "train")] == [5, 1, 5, 5, 5, 1]
    assert [row["item.price"] for row in rows_of(prepared, "train")] == [None, None, None, 1, 1, None]


def test_a_value_of_the_future_changes_nothing_before_it(tmp_path: Path) -> None:
    events, items, users = world(7)
    for root, later in (("one", []), ("two", [{"user": "u1", "seen_at": 1000, "city": "z", "visits": 1e9}])):
        for name, rows in (("events", events), ("items", items), ("users", users + later)):
            write_csv(tmp_path / root / f"{name}.csv", rows)
        prepare_log(experiment(tmp_path / root), tmp_path / f"run-{root}")
    one, two = (Prepared.open(tmp_path / f"run-{root}") for root in ("one", "two"))
    assert one.statistics == two.statistics
    for split in ("train", "valid", "test"):
        assert rows_of(one, split) == rows_of(two, split)


def test_rows_without_a_usable_time_are_quarantined(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", [{"user": "a", "item": "x", "time": time} for time in (1, 5, 9)])
    write_csv(
        tmp_path / "items.csv",
        [
            {"item": "x", "from": time, "price": price}
            for time, price in ((2, 1), ("", 50), ("soon", 60), (6, 2), (7, 3))
        ],
    )
    write_csv(tmp_path / "users.csv", [{"user": "a", "seen_at": 0, "city": "x", "visits": 1}])
    manifest = prepare_log(experiment(tmp_path), tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    values = [row["item.price"] for split in ("train", "valid", "test") for row in rows_of(prepared, split)]
    assert values == [None, 1, 3]
    assert manifest["tables"]["items"] == {"read": 5, "used": 3, "duplicates": 0, "quarantined": 2}
    text = prepared.paths.quarantine.read_text()
    assert "\"no time: column 'from' is empty\"" in text
    assert "\"time 'soon' is not epoch seconds\"" in text


def test_the_time_columns_are_checked(tmp_path: Path) -> None:
    for name, rows in zip(("events", "items", "users"), world(1), strict=True):
        write_csv(tmp_path / f"{name}.csv", rows)
    with pytest.raises(DataError, match="data.items_time: unknown column in items.csv 'form'.*from"):
        prepare_log(experiment(tmp_path, items_time="form"), tmp_path / "run")
    with pytest.raises(DataError, match="data.users_time: column 'city': .* write them as ISO 8601 or epoch seconds"):
        prepare_log(experiment(tmp_path, users_time="city"), tmp_path / "run")
    with pytest.raises(ConfigError, match="data.users_time: needs data.users and"):
        ExperimentConfig(
            name="t", data=DataConfig(users_time="x"), item_features=(Hash("a", 9),), user_features=(Hash("b", 9),)
        )


@pytest.mark.quality
def test_spark_has_the_same_values_as_of_events(tmp_path: Path, spark: SparkOptions) -> None:
    """Of the item table and of the log, in an item's versions and in every row of every split."""
    events, items, users = world(5)
    for place, row in enumerate(events):
        row["stock"] = (place * 7) % 11
    for name, rows in (("events", events), ("items", items), ("users", users)):
        write_csv(tmp_path / f"{name}.csv", rows)
    config = experiment(tmp_path, events="events.csv")
    config = dataclasses.replace(config, item_features=(*config.item_features, Numeric("stock")))
    found = assert_engines_agree(config, tmp_path, spark)
    assert sorted(found["manifest"]["item_columns_as_of"]) == ["price", "stock"]
    assert len(found["item versions"]) > 100
    for split in ("train", "valid", "test"):
        for column in ("item.price", "item.stock"):
            assert len(set(found[f"examples {split}"][column].to_pylist())) > 2
