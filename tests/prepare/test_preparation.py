"""The whole preparation against plain Python, and its promises: no leak, no lost row, the same bytes."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare import oracle
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    Bucketized,
    DataConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    LeaveLastOut,
    Numeric,
    RandomSplit,
    TimeSplit,
)
from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables import input_files

SPLITS = ("train", "valid", "test")
Row = dict[str, Any]


def random_log(seed: int, rows: int = 120, users: int = 7, items: int = 12, times: int = 15) -> list[Row]:
    """Few users, items and times, so that ties abound; values missing now and then."""
    chance = random.Random(seed)
    return [
        {
            "user": f"u{chance.randrange(users)}",
            "item": f"i{chance.randrange(items)}",
            "time": chance.randrange(times),
            "label": int(chance.random() < 0.6),
            "site": chance.choice(["a", "b", "Ünï", ""]),
            "dwell": chance.choice([None, 0, 1, 2.5, -3, 1e6, chance.random()]),
            "split": chance.choice(["train", "train", "valid", "test"]),
        }
        for _ in range(rows)
    ]


def write_csv(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    fields = {"user_id": "user", "item_id": "item", "timestamp": "time", "label": "label"} | data
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), **fields),
        item_features=(Hash("item", buckets=10), Hash("site", buckets=10)),
        user_features=(
            Hash("user", buckets=10),
            Numeric("dwell"),
            Numeric("dwell", transform="log1p", name="dwell_log"),
            Bucketized("dwell", buckets=5, name="dwell_bucket"),
            History(of="item"),
        ),
    )


def rows_of(prepared: Prepared, split: str) -> list[Row]:
    return prepared.read_rows(split).to_pylist()


SPLIT_RULES = {
    "leave_last_out": LeaveLastOut(),
    "time": TimeSplit(valid_fraction=0.2, test_fraction=0.15),
    "time_without_valid": TimeSplit(valid_fraction=0.0, test_fraction=0.3),
    "given": GivenSplit(column="split"),
}


def expected_splits(rule: str, rows: list[Row]) -> list[str]:
    if rule == "leave_last_out":
        return oracle.leave_last_out(rows)
    if rule == "given":
        return [row["split"] for row in rows]
    split = SPLIT_RULES[rule]
    assert isinstance(split, TimeSplit)
    return oracle.time_split(rows, split.valid_fraction, split.test_fraction)


@pytest.mark.parametrize("rule", SPLIT_RULES)
@pytest.mark.parametrize("seed", range(4))
def test_prepare_agrees_with_plain_python(tmp_path: Path, rule: str, seed: int) -> None:
    check_preparation(tmp_path, rule, seed)


@pytest.mark.parametrize("rule", ["leave_last_out", "time", "given"])
def test_the_validation_part_may_be_a_part_of_training(tmp_path: Path, rule: str) -> None:
    """Rows, histories, counts, sequences and statistics are of both parts together; the test part is the same."""
    check_preparation(tmp_path, rule, 5, train_on_valid=True)


def check_preparation(tmp_path: Path, rule: str, seed: int, *, train_on_valid: bool = False) -> None:
    log = random_log(seed)
    write_csv(tmp_path / "events.csv", log)
    config = experiment(
        tmp_path,
        split=SPLIT_RULES[rule],
        positive="coalesce(dwell, 1) >= 0",
        exclude="site = 'b' AND \"time\" < 4",
        train_on_valid=train_on_valid,
    )
    rows = oracle.used_rows(
        log,
        positive=lambda row: (1 if row["dwell"] is None else row["dwell"]) >= 0,
        exclude=lambda row: row["site"] == "b" and row["time"] < 4,
    )
    splits = expected_splits(rule, rows)
    if train_on_valid:
        assert len(set(splits)) == 3
        splits = ["test" if split == "test" else "train" for split in splits]
    manifest = prepare_log(config, tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")

    assert manifest["rows"] == {
        "read": len(log), "used": len(rows), "excluded": {"exclude": len(log) - len(rows)}, "quarantined": 0,
    }  # fmt: skip
    users = sorted({row["user"] for row in rows})
    items = sorted({row["item"] for row in rows})
    assert prepared.user_ids().tolist() == users
    assert prepared.item_ids().tolist() == items
    check_examples(prepared, rows, splits, users, items)
    check_counts(prepared, rows, splits, users, items)
    check_catalogue(prepared, rows, items)
    check_statistics(prepared, [row["dwell"] for row, split in zip(rows, splits, strict=True) if split == "train"])


def check_examples(prepared: Prepared, rows: list[Row], splits: list[str], users: list[str], items: list[str]) -> None:
    histories = oracle.histories(rows, splits)
    for split in SPLITS:
        expected = sorted(
            ((row["time"], row["place"], row, history)
             for row, row_split, history in zip(rows, splits, histories, strict=True) if row_split == split),
            key=lambda entry: entry[:2],
        )  # fmt: skip
        sequence = prepared.sequence("seen" if split == "test" else "train")
        found = rows_of(prepared, split)
        assert len(found) == len(expected) == prepared.num_rows(split)
        for got, (_, _, row, history) in zip(found, expected, strict=True):
            assert users[got["user_row"]] == row["user"] == got["user.user"]
            assert items[got["item_row"]] == row["item"]
            assert (got["label"], got["timestamp"]) == (row["label"], row["time"])
            assert got["item.site"] == said_before(rows, splits, row)
            assert got["user.dwell"] == row["dwell"]
            assert [items[item] for item in sequence[got["history_start"] : got["history_end"]]] == history


def said_before(rows: list[Row], splits: list[str], now: Row) -> str | None:
    """The site in the item's latest event strictly before, else in its first one.

    Of training events, and of validation events that follow all of training; of others where there is none of these.
    """
    trained = max(row["time"] for row, split in zip(rows, splits, strict=True) if split == "train")
    pairs = [(row, split) for row, split in zip(rows, splits, strict=True) if row["item"] == now["item"]]
    known = [row for row, split in pairs if split == "train" or (split == "valid" and row["time"] > trained)]
    before = [row for row in known if row["time"] < now["time"]]
    if not before:
        known = known or [row for row, _ in pairs]
        before = [row for row in known if row["time"] == min(row["time"] for row in known)]
    return str(max(before, key=lambda row: (row["time"], row["place"]))["site"]) or None


def check_counts(prepared: Prepared, rows: list[Row], splits: list[str], users: list[str], items: list[str]) -> None:
    for which, members in (("train", ("train",)), ("seen", ("train", "valid"))):
        groups = [
            [row["item"] for row in sorted(
                (row for row, split in zip(rows, splits, strict=True)
                 if row["user"] == user and row["label"] and split in members),
                key=lambda row: (row["time"], row["place"]),
            )]
            for user in users
        ]  # fmt: skip
        bounds = prepared.sequence_users(which)
        sequence = prepared.sequence(which)
        assert [
            [items[item] for item in sequence[start:end]] for start, end in zip(bounds[:-1], bounds[1:], strict=True)
        ] == groups
    positives = [row["item"] for row, split in zip(rows, splits, strict=True) if split == "train" and row["label"]]
    assert prepared.train_count().tolist() == [positives.count(item) for item in items]
    for split in SPLITS:
        members_of = [row for row, row_split in zip(rows, splits, strict=True) if row_split == split]
        assert prepared.manifest["splits"][split] == {
            "rows": len(members_of),
            "positives": sum(row["label"] for row in members_of),
            "users": len({row["user"] for row in members_of}),
            "items": len({row["item"] for row in members_of}),
        }


def check_catalogue(prepared: Prepared, rows: list[Row], items: list[str]) -> None:
    latest = oracle.latest(rows, "item")
    table = prepared.items().to_pylist()
    assert [(row["item_id"], row["item_name"], row["site"]) for row in table] == [
        (item, item, latest[item]["site"] or None) for item in items
    ]


def check_statistics(prepared: Prepared, values: list[float | None]) -> None:
    present = [float(value) for value in values if value is not None]
    statistics = prepared.statistics["user"]
    mean, deviation = oracle.mean_and_deviation(present)
    assert statistics["dwell"] == {
        "count": len(present), "mean": pytest.approx(mean, rel=1e-12), "std": pytest.approx(deviation, rel=1e-12),
    }  # fmt: skip
    logs = [math.copysign(math.log1p(abs(value)), value) for value in present]
    mean, deviation = oracle.mean_and_deviation(logs)
    assert statistics["dwell_log"]["mean"] == pytest.approx(mean, rel=1e-12)
    assert statistics["dwell_log"]["std"] == pytest.approx(deviation, rel=1e-12)
    singles = [float(np.float32(value)) for value in present]
    assert statistics["dwell_bucket"] == {"boundaries": oracle.quantiles(singles, 5)}


def test_histories_without_times_are_the_users_whole_group(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "events.csv",
        [
            {"user": "a", "item": "x", "site": "", "dwell": 1, "split": "train"},
            {"user": "b", "item": "y", "site": "", "dwell": 1, "split": "train"},
            {"user": "a", "item": "z", "site": "", "dwell": 1, "split": "valid"},
            {"user": "a", "item": "y", "site": "", "dwell": 1, "split": "train"},
            {"user": "a", "item": "x", "site": "", "dwell": 1, "split": "test"},
        ],
    )
    prepare_log(experiment(tmp_path, timestamp="", label="", split=GivenSplit()), tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    assert prepared.sequence("train").tolist() == [0, 1, 1]
    assert prepared.sequence("seen").tolist() == [0, 2, 1, 1]
    keys = ["history_start", "history_end", "timestamp"]
    train = prepared.columns("train", keys)
    assert list(zip(*(train[key].tolist() for key in keys), strict=True)) == [(0, 2, 0), (2, 3, 0), (0, 2, 0)]
    test = prepared.columns("test", keys)
    assert (test["history_start"].tolist(), test["history_end"].tolist()) == ([0], [3])
    assert rows_of(prepared, "test")[0]["timestamp"] is None


def test_an_event_without_a_time_has_no_history_and_is_in_nobodys(tmp_path: Path) -> None:
    base = {"user": "a", "site": "", "dwell": 1, "split": "train", "label": 1}
    log = [{**base, "item": "x", "time": ""}, {**base, "item": "y", "time": 5}, {**base, "item": "z", "time": 9}]
    write_csv(tmp_path / "events.csv", log)
    prepare_log(experiment(tmp_path, split=GivenSplit()), tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    assert prepared.sequence("train").tolist() == [1, 2, 0]
    rows = [(row["item_row"], row["history_start"], row["history_end"]) for row in rows_of(prepared, "train")]
    assert rows == [(1, 0, 0), (2, 0, 1), (0, 0, 0)]


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_bytes_depend_on_input_and_config_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log(1, rows=40_000, users=300, items=200, times=3000)
    write_csv(tmp_path / "one" / "events.csv", log)
    write_csv(tmp_path / "two" / "events.csv", log)
    found = []
    for run, (place, threads) in enumerate((("one", 1), ("one", 2), ("two", 4))):
        prepare_log(experiment(tmp_path / place), tmp_path / f"run{run}", threads=threads)
        found.append(tree(RunPaths(tmp_path / f"run{run}").prepared))
    monkeypatch.setattr(input_files, "estimate_text_bytes", lambda sources: 1 << 40)  # too much for memory
    prepare_log(experiment(tmp_path / "one"), tmp_path / "run3")
    found.append(tree(RunPaths(tmp_path / "run3").prepared))
    assert found[0] == found[1] == found[2] == found[3]
    assert set(found[0]) == {
        "manifest.json", "items.parquet", "users.parquet", "statistics.json", "quarantine.jsonl",
        "examples/train/part-00000.parquet", "examples/valid/part-00000.parquet", "examples/test/part-00000.parquet",
        "sequences/train.npy", "sequences/seen.npy", "sequences/train_users.npy", "sequences/seen_users.npy",
        "positives/part-00000.parquet", "item_versions/part-00000.parquet",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_held_out_rows_change_nothing_that_is_learned_from(tmp_path: Path, seed: int) -> None:
    log = random_log(seed, rows=200)
    chance = random.Random(seed)
    changed = [
        row
        if row["split"] == "train"
        else {**row, "dwell": chance.random() * 1e9, "label": 1 - row["label"], "time": chance.randrange(15)}
        for row in log
    ]
    write_csv(tmp_path / "one" / "events.csv", log)
    write_csv(tmp_path / "two" / "events.csv", changed)
    opened = []
    for name in ("one", "two"):
        prepare_log(experiment(tmp_path / name, split=GivenSplit()), tmp_path / f"run-{name}")
        opened.append(Prepared.open(tmp_path / f"run-{name}"))
    one, two = opened
    assert one.statistics == two.statistics
    assert one.train_count().tolist() == two.train_count().tolist()
    assert one.sequence("train").tolist() == two.sequence("train").tolist()
    assert rows_of(one, "train") == rows_of(two, "train")
    assert rows_of(one, "test") != rows_of(two, "test")


def test_random_split_is_fixed_by_seed_and_place(tmp_path: Path) -> None:
    log = random_log(2, rows=4000)
    write_csv(tmp_path / "events.csv", log)
    config = experiment(tmp_path, split=RandomSplit(valid_fraction=0.2, test_fraction=0.1))
    manifest = prepare_log(config, tmp_path / "run")

    def split(place: int) -> str:
        share = int(hashlib.md5(f"17:{place}".encode()).hexdigest()[:13], 16) / 16**13
        return "test" if share < 0.1 else "valid" if share < 0.1 + 0.2 else "train"

    expected = [split(place) for place in range(len(log))]
    assert {name: manifest["splits"][name]["rows"] for name in SPLITS} == {
        name: expected.count(name) for name in SPLITS
    }
    in_test = sorted((row["time"], place) for place, row in enumerate(log) if expected[place] == "test")
    found = rows_of(Prepared.open(tmp_path / "run"), "test")
    assert [row["user.user"] for row in found] == [log[place]["user"] for _, place in in_test]


def test_formats_give_the_same_result(tmp_path: Path) -> None:
    log = random_log(3)
    write_csv(tmp_path / "csv" / "events.csv", log)
    (tmp_path / "jsonl").mkdir()
    lines = [json.dumps(row) for row in log]
    (tmp_path / "jsonl" / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.Table.from_pylist(log), tmp_path / "parquet" / "events.parquet")
    results = []
    for kind in ("csv", "jsonl", "parquet"):
        manifest = prepare_log(
            experiment(tmp_path / kind, events=f"events.{kind}", positive="dwell > 0.5"), tmp_path / f"run-{kind}"
        )
        files = tree(RunPaths(tmp_path / f"run-{kind}").prepared)
        files.pop("manifest.json")
        results.append((files, manifest["rows"], manifest["splits"]))
    assert results[0] == results[1] == results[2]


def test_days_in_directories_are_one_log(tmp_path: Path) -> None:
    for day, user in (("20240102", "b"), ("20240101", "a")):
        write_csv(tmp_path / f"events/dt={day}/part-0.csv", [{"user": user, "item": "x"}, {"user": user, "item": "y"}])
    (tmp_path / "events/dt=20240103").mkdir()
    (tmp_path / "events/dt=20240103/part-0.csv").touch()
    config = ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(tmp_path), events="events", user_id="user", item_id="item", timestamp="dt",
            split=TimeSplit(valid_fraction=0, test_fraction=0.5),
        ),
        item_features=(Hash("item", buckets=9),),
        user_features=(Hash("user", buckets=9),),
    )  # fmt: skip
    manifest = prepare_log(config, tmp_path / "run")
    rows = rows_of(Prepared.open(tmp_path / "run"), "train")
    assert [(row["user.user"], row["timestamp"]) for row in rows] == [("a", 1704067200)] * 2
    assert manifest["time_range"] == [1704067200, 1704153600]
    assert [entry["path"] for entry in manifest["inputs"]] == [
        "events/dt=20240101/part-0.csv", "events/dt=20240102/part-0.csv", "events/dt=20240103/part-0.csv",
    ]  # fmt: skip


def test_a_failed_preparation_leaves_the_earlier_one(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", random_log(4))
    prepare_log(experiment(tmp_path), tmp_path / "run")
    before = tree(tmp_path / "run")
    with pytest.raises(DataError):
        prepare_log(experiment(tmp_path, label="nolabel"), tmp_path / "run")
    assert tree(tmp_path / "run") == before


def test_open_refuses_what_is_not_there_or_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished preparation; run `twotower prepare` first"):
        Prepared.open(tmp_path)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(ArtifactError, match="99 .expected 7, .*; run `twotower prepare` again"):
        Prepared.open(tmp_path)
