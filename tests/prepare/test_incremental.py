"""A day prepared on top of earlier ones against all days prepared at once."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.prepare.engines import assert_engines_agree
from tests.prepare.test_preparation import rows_of, tree, write_csv
from twotower_tf.config import DataConfig, ExperimentConfig, GivenSplit, Hash, History, Numeric, RandomSplit, TimeSplit
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.prepare.spark.spark_session import SparkOptions

Row = dict[str, Any]
DAY = 86_400


def day_of(seed: int, day: int, rows: int = 150, **fixed: Any) -> list[Row]:
    """Few users and items, some of them new on each day; equal times abound."""
    chance = random.Random(seed * 100 + day)
    return [
        {
            "user": f"u{chance.randrange(8) * 3 % (7 + day)}",
            "item": f"i{chance.randrange(12 + 2 * day) * 7 % (12 + 2 * day)}",
            "time": day * DAY + chance.randrange(10),
            "label": int(chance.random() < 0.6),
            "site": chance.choice(["a", "b", "", f"day{day}"]),
            "price": chance.choice([1, 2.5, None, day]),
            "split": "train",
            **fixed,
        }
        for _ in range(rows)
    ]


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    fields: dict[str, Any] = {"user_id": "user", "item_id": "item", "timestamp": "time", "label": "label"}
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), **(fields | {"split": GivenSplit(), "events": "events"} | data)),
        item_features=(Hash("item", buckets=10), Hash("site", buckets=10)),
        user_features=(Hash("user", buckets=10), Numeric("price"), History(of="item")),
    )


def seen_by(prepared: Prepared, split: str) -> list[Any]:
    """A split's rows by ids: values and histories."""
    users, items = prepared.user_ids(), prepared.item_ids()
    sequence = prepared.sequence("seen" if split == "test" else "train")
    found = []
    for row in rows_of(prepared, split):
        history = [items[item] for item in sequence[row.pop("history_start") : row.pop("history_end")]]
        row["user"], row["item"] = users[row.pop("user_row")], items[row.pop("item_row")]
        found.append((row, history))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_new_day_is_as_if_all_days_were_prepared_at_once(tmp_path: Path, seed: int) -> None:
    new = [
        {**row, "split": split}
        for row, split in zip(
            day_of(seed, 6), random.Random(seed).choices(["train", "valid", "test"], k=150), strict=True
        )
    ]
    for root, days in (("all", range(1, 7)), ("some", range(1, 6))):
        for day in days:
            write_csv(tmp_path / root / f"events/dt=2024010{day}/part.csv", new if day == 6 else day_of(seed, day))
    prepare_log(experiment(tmp_path / "all"), tmp_path / "run-all")
    prepare_log(experiment(tmp_path / "some"), tmp_path / "run-some")
    write_csv(tmp_path / "some" / "events/dt=20240106/part.csv", new)
    manifest = prepare_log(experiment(tmp_path / "some"), tmp_path / "run-new", since=tmp_path / "run-some")
    whole, earlier, day = (Prepared.open(tmp_path / run) for run in ("run-all", "run-some", "run-new"))

    assert manifest["rows"] == {"read": 150, "used": 150, "excluded": {}, "quarantined": 0}
    for split in ("train", "valid", "test"):
        expected = [found for found in seen_by(whole, split) if found[0]["timestamp"] >= 6 * DAY]
        assert seen_by(day, split) == expected and expected
        assert len(expected) == manifest["splits"][split]["rows"]

    # numbers stay, new ones follow, each generation by id
    users, items = day.user_ids().tolist(), day.item_ids().tolist()
    old_users, old_items = earlier.user_ids().tolist(), earlier.item_ids().tolist()
    assert users[: len(old_users)] == old_users and items[: len(old_items)] == old_items
    assert items[len(old_items) :] == sorted(set(whole.item_ids()) - set(old_items)) != []
    assert users[len(old_users) :] == sorted(set(whole.user_ids()) - set(old_users)) != []

    # counts and what users have seen go on; the catalogue has the latest values; statistics are the earlier ones
    assert dict(zip(items, day.train_count(), strict=True)) == dict(
        zip(whole.item_ids(), whole.train_count(), strict=True)
    )
    for which in ("train", "seen"):
        assert positives(day, which) == positives(whole, which)
    catalogue = {row["item_id"]: row for row in day.items().to_pylist()}
    assert catalogue == {row["item_id"]: row for row in whole.items().to_pylist()}
    assert day.statistics == earlier.statistics
    assert day.statistics != whole.statistics


def positives(prepared: Prepared, which: str) -> dict[str, list[str]]:
    items, bounds, sequence = prepared.item_ids(), prepared.sequence_users(which), prepared.sequence(which)
    return {
        user: [items[item] for item in sequence[bounds[row] : bounds[row + 1]]]
        for row, user in enumerate(prepared.user_ids())
    }


def test_days_can_be_chained_and_held_out_positives_become_the_past(tmp_path: Path) -> None:
    log = {day: day_of(5, day) for day in (1, 2, 3)}
    for day, rows in log.items():
        write_csv(tmp_path / "log" / f"events/dt=2024010{day}/part.csv", rows)
        since = tmp_path / f"run{day - 1}" if day > 1 else None
        config = experiment(tmp_path / "log", split=TimeSplit(valid_fraction=0.2, test_fraction=0.2))
        prepare_log(config, tmp_path / f"run{day}", since=since)
    last = Prepared.open(tmp_path / "run3")
    assert [entry["path"] for entry in last.manifest["inputs"]] == ["events/dt=20240103/part.csv"]
    cuts = sorted(row["timestamp"] for row in rows_of(last, "train"))
    for row, history in seen_by(last, "train"):
        earlier = [
            (other["time"], other["item"])
            for day in (1, 2, 3)
            for other in log[day]
            if other["user"] == row["user"] and other["label"] and other["time"] < row["timestamp"]
        ]
        # stable: among equal times the order of the log
        assert history == [item for _, item in sorted(earlier, key=lambda pair: pair[0])]
    assert cuts[0] >= 3 * DAY
    total = sum(row["label"] for rows in (log[1], log[2]) for row in rows)
    assert int(last.train_count().sum()) == total + last.manifest["splits"]["train"]["positives"]


def test_item_tables_are_read_anew_and_absent_items_keep_their_values(tmp_path: Path) -> None:
    write_csv(tmp_path / "events/1.csv", [{"user": "a", "item": "x", "time": 1}, {"user": "a", "item": "y", "time": 2}])
    write_csv(
        tmp_path / "items.csv", [{"item": "x", "site": "old", "price": 1}, {"item": "y", "site": "why", "price": 2}]
    )
    data = {"label": "", "items": "items.csv", "split": TimeSplit(0, 0)}
    config = ExperimentConfig(
        name="test",
        data=experiment(tmp_path, **data).data,
        item_features=(Hash("item", buckets=10), Hash("site", buckets=10)),
        user_features=(Hash("user", buckets=10),),
    )
    prepare_log(config, tmp_path / "one")
    write_csv(tmp_path / "events/2.csv", [{"user": "b", "item": "a", "time": 3}])
    write_csv(
        tmp_path / "items.csv", [{"item": "x", "site": "new", "price": 9}, {"item": "cold", "site": "", "price": 4}]
    )
    prepare_log(config, tmp_path / "two", since=tmp_path / "one")
    columns = ["item_id", "item_name", "item", "site", "price", "train_count"]
    assert pq.read_table(tmp_path / "two/prepared/items.parquet", columns=columns).to_pylist() == [
        dict(zip(columns, row, strict=True))
        for row in (
            ("x", "x", "x", "new", 9, 1), ("y", "y", "y", "why", 2, 1),
            ("a", "a", "a", None, None, 1), ("cold", "cold", "cold", None, 4, 0),
        )
    ]  # fmt: skip
    prepared = Prepared.open(tmp_path / "two")
    assert prepared.user_ids().tolist() == ["a", "b"]
    assert np.diff(prepared.sequence_users("train")).tolist() == [2, 1]


def users_of(prepared: Prepared) -> dict[str, tuple[Any, ...]]:
    """What users.parquet has of each user: last_event, device, age."""
    rows = pq.read_table(prepared.paths.users).to_pylist()
    return {row["user_id"]: (row["last_event"], row["user.device"], row["user.age"]) for row in rows}


def people(root: Path, **data: Any) -> ExperimentConfig:
    """A device that events carry, an age that the users table has."""
    return dataclasses.replace(
        experiment(root, users="users.csv", **data),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("device", buckets=10), Numeric("age")),
    )


@pytest.mark.parametrize("seed", range(3))
def test_users_latest_values_go_on_from_run_to_run(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log: list[Row] = []
    ages: dict[str, float | None] = {}
    for day in (1, 2, 3):
        some = [f"u{number}" for number in range(12) if chance.random() < 0.5]
        rows = [
            {
                "user": chance.choice(some),
                "item": "i",
                "time": day * DAY + chance.randrange(10),
                "label": chance.randrange(2),
                "device": chance.choice(["phone", "desk", ""]),
            }
            for _ in range(30)
        ]
        table = [{"user": f"u{n}", "age": chance.choice([20 + day, None])} for n in range(12) if chance.random() < 0.6]
        log += rows
        known = {row["user"] for row in log}  # a user without an event does not count yet
        # a row replaces all values of its user, a missing age included
        ages |= {row["user"]: row["age"] for row in table if row["user"] in known}
        write_csv(tmp_path / f"events/dt=2024010{day}/part.csv", rows)
        write_csv(tmp_path / "users.csv", table)
        config = people(tmp_path, split=TimeSplit(valid_fraction=0.2, test_fraction=0.2))
        prepare_log(config, tmp_path / f"run{day}", since=tmp_path / f"run{day - 1}" if day > 1 else None)
        latest: dict[str, Row] = {}
        for row in log:  # of equal times the later row counts
            if row["user"] not in latest or row["time"] >= latest[row["user"]]["time"]:
                latest[row["user"]] = row
        expected = {user: (row["time"], row["device"] or None, ages.get(user)) for user, row in latest.items()}
        assert users_of(Prepared.open(tmp_path / f"run{day}")) == expected
    absent = {row["user"] for row in log} - {row["user"] for row in rows}
    assert absent and {expected[user] for user in absent} != {(None, None, None)}
    # The table of all days, one row per user, gives one preparation the same.
    write_csv(tmp_path / "users.csv", [{"user": user, "age": age} for user, age in ages.items()])
    prepare_log(people(tmp_path, split=TimeSplit(0.2, 0.2)), tmp_path / "once")
    assert users_of(Prepared.open(tmp_path / "once")) == expected


@pytest.mark.parametrize("timed", [False, True])
def test_events_of_users_whom_the_table_no_longer_has_see_what_was_known(tmp_path: Path, timed: bool) -> None:
    log = {1: [("a", 10), ("b", 11), ("c", 12)], 2: [("a", 20), ("b", 21), ("c", 22), ("d", 23)]}
    ages = {1: [("a", 5, 30), ("b", 6, 40), ("c", 7, 50)], 2: [("b", 21, ""), ("c", 22, 51), ("d", 24, 60)]}
    for day in (1, 2):
        rows = [{"user": user, "item": "x", "time": time, "device": "tv"} for user, time in log[day]]
        write_csv(tmp_path / f"events/{day}.csv", rows)
        table = [{"user": user, "since": since, "age": age} for user, since, age in ages[day]]
        write_csv(tmp_path / "users.csv", table)
        data = {"users_time": "since"} if timed else {}
        config = people(tmp_path, label="", split=TimeSplit(0, 0), **data)
        prepare_log(config, tmp_path / f"run{day}", since=tmp_path / "run1" if day > 1 else None)
    # a is in the table of the first day alone; b's row has a missing age; d's begins after the event
    expected = {"a": 30, "b": None, "c": 51, "d": None if timed else 60}
    rows = seen_by(Prepared.open(tmp_path / "run2"), "train")
    assert {row["user"]: row["user.age"] for row, _ in rows} == expected


def test_files_that_arrive_late_do_not_displace_later_values(tmp_path: Path) -> None:
    def events(number: int, *rows: tuple[str, str, int | str, str, float | str]) -> None:
        names = ("user", "item", "time", "device", "price")
        write_csv(tmp_path / f"events/{number}.csv", [dict(zip(names, row, strict=True)) for row in rows])

    config = dataclasses.replace(
        people(tmp_path, label="", split=TimeSplit(0, 0), users_time="since"),
        item_features=(Hash("item", buckets=10), Numeric("price")),
    )
    ages = [("a", 100, 30), ("a", 90, 20), ("b", 5, 40)]
    write_csv(tmp_path / "users.csv", [dict(zip(("user", "since", "age"), row, strict=True)) for row in ages])
    events(1, ("a", "x", 100, "phone", 1), ("b", "y", 100, "desk", 2), ("c", "z", 100, "tablet", 3))
    prepare_log(config, tmp_path / "one")
    # a: earlier; b: at the same time, so later in the log; c: later; d: new
    events(2, ("a", "x", 99, "watch", 9), ("b", "y", 100, "watch", 9), ("c", "z", 101, "", ""), ("d", "x", 7, "tv", 8))
    prepare_log(config, tmp_path / "two", since=tmp_path / "one")
    prepared = Prepared.open(tmp_path / "two")
    assert users_of(prepared) == {
        "a": (100, "phone", 30), "b": (100, "watch", 40), "c": (101, None, None), "d": (7, "tv", None)
    }  # fmt: skip
    items = prepared.items(["item_id", "price", "last_event"]).to_pylist()
    assert [tuple(row.values()) for row in items] == [("x", 1, 100), ("y", 9, 100), ("z", None, 101)]


def test_without_times_new_files_have_the_latest_values(tmp_path: Path) -> None:
    config = dataclasses.replace(
        people(tmp_path, timestamp="", label="", split=RandomSplit(0, 0)), user_features=(Hash("device", buckets=10),)
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, users=""))
    write_csv(tmp_path / "events/1.csv", [{"user": u, "item": "x", "device": "old"} for u in "ab"])
    prepare_log(config, tmp_path / "one")
    write_csv(tmp_path / "events/2.csv", [{"user": u, "item": "x", "device": f"new {u}"} for u in "bc"])
    prepare_log(config, tmp_path / "two", since=tmp_path / "one")
    table = pq.read_table(Prepared.open(tmp_path / "two").paths.users)
    assert table.column("user.device").to_pylist() == ["old", "new b", "new c"]
    assert table.column("last_event").to_pylist() == [None] * 3


@pytest.mark.quality
def test_engines_continue_alike(tmp_path: Path, spark: SparkOptions) -> None:
    for day in (1, 2):
        write_csv(tmp_path / f"events/dt=2024010{day}/part.csv", day_of(3, day))
    items = [{"item": f"i{number}", "site": "s", "stock": number} for number in range(15)]
    write_csv(tmp_path / "items.csv", items)
    ages = [{"user": f"u{number}", "age": number} for number in range(8)]
    write_csv(tmp_path / "users.csv", ages)
    config = experiment(tmp_path, items="items.csv", users="users.csv", split=TimeSplit(0.1, 0.2), weight="price")
    config = dataclasses.replace(config, user_features=(*config.user_features, Numeric("age")))
    prepare_log(config, tmp_path / "one")
    write_csv(tmp_path / "users.csv", ages[:2])
    late = [{**row, "time": row["time"] - 2 * DAY * (place % 3 == 0)} for place, row in enumerate(day_of(3, 3))]
    write_csv(tmp_path / "events/dt=20240103/part.csv", late)
    write_csv(tmp_path / "items.csv", [{**row, "stock": f"about {row['stock']}"} for row in items[3:]])
    found = assert_engines_agree(config, tmp_path, spark, since=tmp_path / "one")
    assert found["manifest"]["rows"]["read"] == 150 > found["manifest"]["rows"]["used"]
    assert found["items"]["stock"].to_pylist()[:4] == ["0", "1", "about 10", "about 11"]
    known = {row["user_id"]: row["user.age"] for row in found["users"].to_pylist()}
    assert known["u1"] == 1 and known["u5"] == 5 and None in known.values()
    row_of = found["users"]["user_id"].to_pylist().index("u5")
    seen = {row["user.age"] for row in found["examples train"].to_pylist() if row["user_row"] == row_of}
    assert seen == {5}


def test_what_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_csv(log / "events/1.csv", day_of(1, 1))
    prepare_log(experiment(log), tmp_path / "one")
    before = tree(tmp_path / "one")
    with pytest.raises(DataError, match="no new file to prepare: .* all of 1 files; add those of the new day$"):
        prepare_log(experiment(log), tmp_path / "two", since=tmp_path / "one")
    write_csv(log / "events/2.csv", day_of(1, 2))
    with pytest.raises(
        ConfigError, match="--since: invalid directory .*one' .it is --run_dir.; name the run to continue"
    ):
        prepare_log(experiment(log), tmp_path / "one", since=tmp_path / "one")
    with pytest.raises(ArtifactError, match="--since: .*none: no finished preparation there; run `twotower prepare`"):
        prepare_log(experiment(log), tmp_path / "two", since=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"prepared with another configuration \(data\); only data.root, data.events"):
        prepare_log(experiment(log, positive="price > 1"), tmp_path / "two", since=tmp_path / "one")
    write_csv(log / "events/1.csv", day_of(9, 1))
    with pytest.raises(DataError, match=r"events/1.csv: changed since .*one read it; prepare again without --since"):
        prepare_log(experiment(log), tmp_path / "two", since=tmp_path / "one")
    assert tree(tmp_path / "one") == before
    assert not (tmp_path / "two" / "prepared").exists()


def test_values_that_change_with_time_go_on_from_the_earlier_run(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "events/1.csv",
        [{"user": "a", "item": "x", "time": 10, "stock": 1}, {"user": "a", "item": "gone", "time": 12, "stock": 2}],
    )
    first = [{"item": "x", "from": 0, "price": 1}, {"item": "gone", "from": 0, "price": 7}]
    write_csv(tmp_path / "items.csv", first)
    data = {"label": "", "items": "items.csv", "items_time": "from", "split": TimeSplit(0, 0)}
    config = ExperimentConfig(
        name="test",
        data=experiment(tmp_path, **data).data,
        item_features=(Hash("item", buckets=10), Numeric("stock"), Numeric("price")),
        user_features=(Hash("user", buckets=10),),
    )
    prepare_log(config, tmp_path / "one", now=50)
    write_csv(
        tmp_path / "events/2.csv",
        [
            {"user": "b", "item": "x", "time": 20, "stock": 3}, {"user": "b", "item": "new", "time": 21, "stock": 5},
            {"user": "c", "item": "x", "time": 40, "stock": 4}, {"user": "c", "item": "new", "time": 41, "stock": 6},
            {"user": "d", "item": "gone", "time": 42, "stock": 8},
        ],
    )  # fmt: skip
    write_csv(tmp_path / "items.csv", [{"item": "x", "from": 30, "price": 2}, {"item": "new", "from": 30, "price": 9}])
    prepare_log(config, tmp_path / "two", since=tmp_path / "one", now=50)
    prepared = Prepared.open(tmp_path / "two")
    ids = prepared.item_ids()
    found = [
        (ids[row["item_row"]], row["timestamp"], row["item.stock"], row["item.price"])
        for row in rows_of(prepared, "train")
    ]
    # What the earlier log said of x and gone holds until the new one says more. The table of items is the new one, in
    # which x has no price before 30; gone is not in it and keeps its own.
    assert found == [
        ("x", 20, 1, None), ("new", 21, 5, None), ("x", 40, 3, 2), ("new", 41, 5, 9), ("gone", 42, 2, 7),
    ]  # fmt: skip


def test_a_late_event_does_not_displace_a_newer_value(tmp_path: Path) -> None:
    """Values as of the events: those of the late event until the last event of the run before, then that one's."""

    def event(user: str, item: str, day: int, site: str) -> Row:
        return {"user": user, "item": item, "time": day * DAY, "label": 1, "site": site, "price": 1, "split": "train"}

    root = tmp_path / "log"
    first = [event("a", "i", 1, "old"), event("b", "i", 5, "new"), event("a", "j", 5, "same"), event("a", "k", 4, "k")]
    second = [
        event("c", "i", 3, "late"), event("d", "i", 4, "later"), event("f", "i", 7, "x"),
        event("c", "j", 2, "late"), event("d", "j", 6, "y"),
        event("c", "k", 2, "late"), event("d", "k", 4, "equal"), event("e", "k", 8, "z"),
    ]  # fmt: skip
    write_csv(root / "events/dt=20240101/part.csv", first)
    config = experiment(root)
    prepare_log(config, tmp_path / "run1")
    write_csv(root / "events/dt=20240102/part.csv", second)
    prepare_log(config, tmp_path / "run2", since=tmp_path / "run1")
    prepared = Prepared.open(tmp_path / "run2")
    found = {(row["item"], row["timestamp"] // DAY): row["item.site"] for row, _ in seen_by(prepared, "train")}
    assert found == {
        ("i", 3): "new", ("i", 4): "late", ("i", 7): "new",
        ("j", 2): "same", ("j", 6): "same",
        ("k", 2): "k", ("k", 4): "late", ("k", 8): "equal",
    }  # fmt: skip
    catalogue = {row["item_id"]: row["site"] for row in prepared.items().to_pylist()}
    assert catalogue == {"i": "x", "j": "y", "k": "z"}
