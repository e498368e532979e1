"""Item and user tables in a preparation: latest rows, values as of events, statistics."""

from __future__ import annotations

from pathlib import Path

from tests.prepare.test_preparation import rows_of, write_csv
from twotower_tf.config import Bucketized, DataConfig, ExperimentConfig, Hash, Hour, Numeric, Tags, TimeSplit
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared


def test_item_and_user_tables(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "events.csv",
        [
            {"user": "a", "item": "7", "time": 1, "price": 5},
            {"user": "a", "item": "8", "time": 2, "price": ""},
            {"user": "b", "item": "7", "time": 3, "price": 6},
            {"user": "b", "item": "new", "time": 4, "price": 2},
        ],
    )
    items = [
        {"item": "7", "title": "old", "tags": "x|y", "price": 1, "stock": 3, "code": "007"},
        {"item": "8", "title": "", "tags": "", "price": 2, "stock": "", "code": "08"},
        {"item": "7", "title": "Seven", "tags": "z", "price": 3, "stock": 4, "code": "07"},
        {"item": "cold", "title": "Cold", "tags": "q", "price": 4, "stock": 5, "code": "1"},
    ]
    write_csv(tmp_path / "items.csv", items)
    write_csv(tmp_path / "users.csv", [{"user": "a", "age": 30}, {"user": "ghost", "age": 9}, {"user": "a", "age": 31}])
    config = ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(tmp_path), items="items.csv", users="users.csv", user_id="user", item_id="item", timestamp="time",
            item_name="title", split=TimeSplit(valid_fraction=0, test_fraction=0),
        ),
        item_features=(Hash("item", buckets=9), Tags("tags", buckets=9), Bucketized("price", buckets=2)),
        user_features=(Hash("user", buckets=9), Numeric("age"), Hour("time")),
    )  # fmt: skip
    manifest = prepare_log(config, tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    # price: the events carry it, so examples have what the item's event before said, or its first one; the catalogue
    # keeps the table's, and for an item that the table does not know, the latest event's
    columns = ["item_id", "item_name", "item", "tags", "price", "title", "stock", "code", "train_count", "last_event"]
    assert prepared.items().column_names == columns
    assert [tuple(row.values()) for row in prepared.items().to_pylist()] == [
        ("7", "Seven", "7", "z", 3.0, "Seven", 4, "07", 2, 3),
        ("8", "8", "8", None, 2.0, None, None, "08", 1, 2),
        ("cold", "Cold", "cold", "q", 4.0, "Cold", 5, "1", 0, None),
        ("new", "new", "new", None, 2.0, None, None, None, 1, 4),
    ]
    assert prepared.user_ids().tolist() == ["a", "b"]
    assert [(row["user.age"], row["item.price"]) for row in rows_of(prepared, "train")] == [
        (31.0, 5.0), (31.0, None), (None, 5.0), (None, 2.0),
    ]  # fmt: skip
    assert manifest["item_columns_as_of"] == ["price"]
    assert manifest["tables"] == {
        "items": {"read": 4, "used": 3, "duplicates": 1, "quarantined": 0},
        "users": {"read": 3, "used": 2, "duplicates": 1, "quarantined": 0},
    }
    assert prepared.statistics == {
        "schema_version": 1,
        "user": {"age": {"count": 2, "mean": 31.0, "std": 1.0}},
        "item": {"price": {"boundaries": [5.0]}},
    }


def test_item_statistics_are_weighted_by_training_rows(tmp_path: Path) -> None:
    log = [{"user": "a", "item": item, "time": time} for time, item in enumerate("xxxyx")]
    write_csv(tmp_path / "events.csv", [*log, {"user": "a", "item": "z", "time": 99}])
    write_csv(
        tmp_path / "items.csv", [{"item": "x", "price": 1}, {"item": "y", "price": 6}, {"item": "z", "price": 50}]
    )
    config = ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(tmp_path), items="items.csv", user_id="user", item_id="item", timestamp="time",
            split=TimeSplit(valid_fraction=0, test_fraction=0.1),
        ),
        item_features=(Numeric("price"),),
        user_features=(Hash("user", buckets=9),),
    )  # fmt: skip
    prepare_log(config, tmp_path / "run")
    assert Prepared.open(tmp_path / "run").statistics["item"] == {"price": {"count": 5, "mean": 2.0, "std": 2.0}}
