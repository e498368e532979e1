"""`columns.json` against columns whose values, rows and shared buckets were planted, and against slow counting."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    ExperimentConfig,
    Hash,
    Hour,
    Numeric,
    RandomSplit,
    Tags,
    TimeSplit,
)
from twotower_tf.features import column_audit
from twotower_tf.features.column_audit import audit, count_covering
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared


def run(root: Path, columns: dict[str, Any], user: tuple[Any, ...], item: tuple[Any, ...] = (), **data: Any) -> Any:
    """`columns.json` of a log, and of an item table where `data` names one."""
    rows = len(next(iter(columns.values())))
    table = {"user": ["u"] * rows, "item": ["i"] * rows, "time": list(range(rows))} | columns
    pq.write_table(pa.table(table), root / "events.parquet")
    fields = {"split": RandomSplit(0.0, 0.0)} | data
    config = ExperimentConfig(
        name="t",
        data=DataConfig(
            root=str(root), events="events.parquet", user_id="user", item_id="item", timestamp="time", **fields
        ),
        item_features=(Hash("item", buckets=10), *item),
        user_features=user,
    )
    prepare_log(config, root / "run", threads=1)
    written = audit(config, Prepared.open(root / "run"), memory_limit="200MB", threads=1)
    assert json.loads((root / "run" / "prepared" / "columns.json").read_text()) == written
    assert [path.name for path in (root / "run").iterdir()] == ["prepared"]
    return written


def bucket(text: str, size: int) -> int:
    return int(tf.strings.to_hash_bucket_fast([text], size)[0])


def planted() -> list[str]:
    """Ten texts of which the first three share a bucket of fifty and the others have one each."""
    candidates = [f"value {number}" for number in range(2000)]
    shared = [text for text in candidates if bucket(text, 50) == 17][:3]
    alone: dict[int, str] = {}
    for text in candidates:
        if bucket(text, 50) != 17:
            alone.setdefault(bucket(text, 50), text)
    return shared + list(alone.values())[:7]


def test_planted_collisions(tmp_path: Path) -> None:
    texts = planted()
    counts = [40, 1, 1, 30, 10, 5, 3, 2, 4, 4]
    column = [text for text, count in zip(texts, counts, strict=True) for _ in range(count)]
    column += [None] * 15 + [""] * 10
    np.random.default_rng(1).shuffle(column)
    found = run(tmp_path, {"device": column}, (Hash("device", buckets=50),))
    assert found["schema_version"] == 1 and found["target_sharing"] == 0.1
    device = found["user"]["device"]
    assert device["rows"] == 125
    assert device["missing_share"] == 0.2
    assert device["values"] == {"distinct": 10, "exact": True}
    assert device["most_frequent"][:3] == [
        {"value": texts[0], "share": 0.4},
        {"value": texts[3], "share": 0.3},
        {"value": texts[4], "share": 0.1},
    ]
    assert len(device["most_frequent"]) == 10
    assert device["values_covering"] == {"0.5": 2, "0.9": 6, "0.99": 9}  # 40 70 80 85 89 93 96 98 99 100
    assert device["features"]["device"] == {
        "type": "Hash",
        "buckets": 50,
        "buckets_used": 8,
        "suggested_buckets": 86,
        "sharing": {"expected": pytest.approx(0.166252, abs=1e-6), "measured": 0.3},
        "most_frequent_sharing": {
            "values": 1,
            "expected": pytest.approx(0.166252, abs=1e-6),
            "measured": 1.0,
            "expected_among_themselves": 0.0,
            "measured_among_themselves": 0.0,
        },
    }


def test_hashes_and_crosses_against_slow_counting(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ids = [f"id{int(number)}" for number in rng.zipf(1.3, 4000) % 1500]
    kinds = [str(rng.choice(["a", "b", "c"])) if rng.random() < 0.9 else None for _ in range(4000)]
    found = run(tmp_path, {"id": ids, "kind": kinds}, (Hash("id", buckets=900), Cross(("id", "kind"), buckets=700)))

    def check(entry: dict[str, Any], rows: list[Any], buckets_of: dict[Any, int]) -> None:
        counts = Counter(rows)
        occupied = Counter(buckets_of.values())
        assert entry["values"]["distinct"] == len(counts) == len(buckets_of)
        (feature,) = entry["features"].values()
        shared = {value for value, place in buckets_of.items() if occupied[place] > 1}
        assert feature["sharing"]["measured"] == pytest.approx(len(shared) / len(counts))
        assert feature["buckets_used"] == len(occupied)
        top = sorted(counts, key=lambda value: (-counts[value], value))[: -(-len(counts) // 100)]
        among = Counter(buckets_of[value] for value in top)
        figures = feature["most_frequent_sharing"]
        assert figures["values"] == len(top) > 3
        assert figures["measured"] == pytest.approx(len(shared & set(top)) / len(top))
        lonely = sum(among[buckets_of[value]] == 1 for value in top)
        assert figures["measured_among_themselves"] == pytest.approx(1 - lonely / len(top))

    check(found["user"]["id"], ids, {text: bucket(text, 900) for text in set(ids)})
    pairs = [(text, kind) for text, kind in zip(ids, kinds, strict=True) if kind]
    distinct = sorted(set(pairs))
    crossed = tf.sparse.cross_hashed([tf.constant([[pair[part]] for pair in distinct]) for part in (0, 1)], 700)
    entry = found["user"]["id_x_kind"]
    check(entry, pairs, dict(zip(distinct, crossed.values.numpy().tolist(), strict=True)))
    assert entry["columns"] == ["id", "kind"]
    assert entry["missing_share"] == pytest.approx(kinds.count(None) / 4000)
    assert entry["most_frequent"][0]["value"] == list(Counter(pairs).most_common(1)[0][0])


def test_tags_are_counted_one_by_one(tmp_path: Path) -> None:
    column = ["a| b ", "b", None, "b|c||", " "]
    found = run(tmp_path, {"likes": column}, (Tags("likes", buckets=1000),))["user"]["likes"]
    assert found["values"]["distinct"] == 3
    assert found["missing_share"] == 0.2
    assert [(entry["value"], entry["share"]) for entry in found["most_frequent"]] == [
        ("b", 0.6),
        ("a", 0.2),
        ("c", 0.2),
    ]
    assert found["features"]["likes"]["sharing"]["measured"] == 0.0


def test_numbers_and_their_buckets(tmp_path: Path) -> None:
    ages = [1.0] * 60 + [2.0] * 20 + [3.0] * 10 + [4.5] * 10 + [None] * 25
    features = (Bucketized("age", buckets=4, name="band"), Numeric("age"), Hour("time"))
    found = run(tmp_path, {"age": ages}, features)
    assert list(found["user"]) == ["age"]
    age = found["user"]["age"]
    assert (age["rows"], age["missing_share"], age["values"]["distinct"]) == (125, 0.2, 4)
    assert age["most_frequent"][0] == {"value": 1.0, "share": 0.6}
    assert age["values_covering"] == {"0.5": 1, "0.9": 3, "0.99": 4}
    # quantiles at 25, 50 and 75 of 100 rows are 1, 1, 2: boundaries 1 and 2, buckets below 1, [1, 2), and from 2 on
    assert age["features"] == {
        "band": {
            "type": "Bucketized",
            "buckets": 4,
            "buckets_used": 2,
            "row_shares": [0.0, 0.6, 0.4],
            "buckets_covering": {"0.5": 1, "0.9": 2, "0.99": 2},
        }
    }


@pytest.mark.parametrize("held", [0, 100])
def test_the_catalogue_is_weighted_by_training_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Seven training events; an item without events has its value, and no weight; versions are held or joined again."""
    monkeypatch.setattr(column_audit, "_HELD", held)
    columns = {"item": ["x"] * 5 + ["y"] * 2 + ["z"], "place": ["p"] * 7 + ["q"]}
    items = {
        "item": ["x", "y", "z", "cold"],
        "colour": ["red", "blue", "blue", "green"],
        "shape": ["o", None, "o", "o"],
    }
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    item = (Hash("colour", buckets=500), Hash("shape", buckets=500), Hash("place", buckets=500))
    found = run(
        tmp_path,
        columns,
        (Hash("user", buckets=10),),
        (*item, Cross(("colour", "place"), buckets=500), Cross(("colour", "shape"), buckets=500)),
        items="items.parquet",
        split=TimeSplit(valid_fraction=0.0, test_fraction=0.1),
    )["item"]
    assert [(entry["value"], entry["share"]) for entry in found["colour"]["most_frequent"]] == [
        ("red", pytest.approx(5 / 7)),
        ("blue", pytest.approx(2 / 7)),
        ("green", 0.0),
    ]
    assert found["colour"]["values_covering"] == {"0.5": 1, "0.9": 2, "0.99": 2}
    assert found["shape"]["missing_share"] == pytest.approx(2 / 7)
    assert found["place"]["most_frequent"] == [{"value": "p", "share": 1.0}]
    assert [entry["value"] for entry in found["colour_x_place"]["most_frequent"]] == [["red", "p"], ["blue", "p"]]
    assert found["colour_x_shape"]["values"]["distinct"] == 3
    assert found["item"]["values"]["distinct"] == 4


def test_a_column_without_any_value(tmp_path: Path) -> None:
    found = run(tmp_path, {"device": pa.array([None, None], pa.string())}, (Hash("device", buckets=50),))
    device = found["user"]["device"]
    assert device["missing_share"] == 1.0 and device["most_frequent"] == []
    assert device["values_covering"] == {"0.5": 0, "0.9": 0, "0.99": 0}
    assert device["features"]["device"]["sharing"] == {"expected": 0.0, "measured": 0.0}
    assert device["features"]["device"]["most_frequent_sharing"]["values"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_covering_against_slow_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = sorted(rng.integers(1, 9, rng.integers(1, 40)).tolist(), reverse=True)
    levels = sorted(Counter(counts).items(), reverse=True)
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        slow = next(k for k in range(1, len(counts) + 1) if sum(counts[:k]) >= share * sum(counts))
        assert count_covering(np.array([n for n, _ in levels]), np.array([k for _, k in levels]), share) == slow
