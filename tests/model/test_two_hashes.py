"""Ids with two hashes: rows, lookups and towers against integer arithmetic and NumPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.model.filled import filled_table
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, ModelConfig, RandomSplit
from twotower_tf.errors import ConfigError
from twotower_tf.features.column_audit import audit
from twotower_tf.features.row_pairs import pair_rows
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.model import two_tower
from twotower_tf.model.embeddings import Placement
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared

PRIME = 2_147_483_647
STATISTICS: dict[str, dict[str, object]] = {"user": {}, "item": {}}


def slow_pair(number: int, buckets: int) -> tuple[int, int]:
    return number % buckets, (1_103_515_245 * number + 12_345) % PRIME % buckets


def fingerprints(texts: list[str]) -> list[int]:
    return [int(each) for each in tf.strings.to_hash_bucket_fast(texts, PRIME).numpy()]


def test_rows_are_those_of_exact_integers() -> None:
    numbers = [0, 1, 2, 41, 99_999, 2**30 + 7, PRIME - 1]
    for buckets in (2, 7, 1000, 2_000_000_000):
        expected = list(zip(*(slow_pair(number, buckets) for number in numbers), strict=True))
        assert [part.tolist() for part in pair_rows(np.array(numbers), buckets)] == [*map(list, expected)]
        tensors = pair_rows(tf.constant(numbers, tf.int64), tf.constant(buckets, tf.int64))
        assert [part.numpy().tolist() for part in tensors] == [*map(list, expected)]


def test_pairs_meet_as_rarely_as_by_chance() -> None:
    """3,000 ids in 100 buckets: n (n - 1) / 2 / B^2 = 450 pairs of ids have both rows in common."""
    pairs = [slow_pair(number, 100) for number in fingerprints([f"item {n}" for n in range(3000)])]
    counts = np.unique(np.array(pairs), axis=0, return_counts=True)[1]
    assert 380 < (counts * (counts - 1) // 2).sum() < 520


def test_lookups_add_both_rows() -> None:
    table = filled_table(40, 3)
    weights = table.table.numpy()
    ids = np.array([[5, 123_456_789, 2], [-1, PRIME - 1, -1], [0, -1, 3]], np.int32)
    got = table(tf.constant(ids), offsets=[0, 10, 30], paired=[0, 17, 0]).numpy()
    for row, column in np.ndindex(ids.shape):
        number = int(ids[row, column])
        rows = [number + (0, 10, 30)[column]] if column != 1 else [10 + place for place in slow_pair(number, 17)]
        expected = sum(weights[each] for each in rows) if number >= 0 else np.zeros(3)
        np.testing.assert_allclose(got[row, column], expected, atol=1e-6)
    history = np.array([[123, 456_789, -1], [-1, -1, -1], [7, 7, 99]], np.int32)
    mean = table(tf.constant(history), offsets=[10], mean=True, paired=[17]).numpy()
    for row, numbers in enumerate(history):
        present = [slow_pair(int(number), 17) for number in numbers if number >= 0]
        vectors = [weights[10 + first] + weights[10 + second] for first, second in present]
        np.testing.assert_allclose(mean[row], np.mean(vectors, axis=0) if vectors else np.zeros(3), atol=1e-6)


def test_rows_that_training_reads_are_both() -> None:
    place = Placement("t", 10, 17, 3, hashes=2)
    numbers = np.array([123, PRIME - 1], np.int32)
    expected = {10 + row for number in numbers for row in slow_pair(int(number), 17)}
    assert set(place.list_rows(numbers).tolist()) == expected
    assert Placement("t", 10, 200, 3).list_rows(numbers[:1]).tolist() == [133]


def experiment(hashes: int, **data: object) -> ExperimentConfig:
    return ExperimentConfig(
        name="t",
        data=DataConfig(timestamp="", split=RandomSplit(0.0, 0.0), **data),  # type: ignore[arg-type]
        item_features=(Hash("item_id", buckets=20, hashes=hashes),),  # type: ignore[arg-type]
        user_features=(History(of="item_id", length=5),),
        model=ModelConfig(embedding_dim=8, vector_dim=8, item_hidden=(), user_hidden=()),
    )


@pytest.mark.parametrize(("hashes", "fewest"), [(1, 1), (2, 35)])
def test_items_that_share_a_bucket_have_vectors_of_their_own(hashes: int, fewest: int) -> None:
    """40 items in 20 buckets: with one hash at most 20 vectors, with two at most 400 pairs of rows."""
    config = experiment(hashes)
    texts = [f"i{number}" for number in range(40)]
    pairs = {frozenset(slow_pair(number, 20)) for number in fingerprints(texts)}  # a sum has no order
    model = two_tower.build(config)
    for layer in model.layers:
        if hasattr(layer, "table"):
            layer.table.assign(np.random.default_rng(1).normal(size=layer.table.shape))
    encoded = TowerEncoder(config, STATISTICS, "item").encode({"item_id": tf.constant(texts)})
    vectors = two_tower.tower(model, "item")({"item_ids": encoded["ids"]}).numpy()
    distinct = len(np.unique(np.round(vectors, 5), axis=0))
    assert distinct == (len(pairs) if hashes == 2 else len({bucket for bucket in encoded["ids"].numpy()[:, 0]}))
    assert fewest <= distinct and (hashes == 2 or distinct <= 20)


def test_a_history_adds_the_rows_of_its_items() -> None:
    config = experiment(2)
    model = two_tower.build(config)
    table = next(layer for layer in model.layers if hasattr(layer, "table"))
    weights = np.random.default_rng(2).normal(size=table.table.shape).astype(np.float32)
    table.table.assign(weights)
    ids = TowerEncoder(config, STATISTICS, "user").encode({"history": tf.constant([["i1", "i2", ""]])})
    (key,) = ids
    got = two_tower.tower(model, "user")({f"user_{key}": ids[key]}).numpy()[0]
    rows = [slow_pair(number, 20) for number in fingerprints(["i1", "i2"])]
    mean = np.mean([weights[first] + weights[second] for first, second in rows], axis=0)
    kernel, bias = model.get_layer("user_projection").get_weights()
    raw = mean @ kernel + bias
    np.testing.assert_allclose(got, raw / np.linalg.norm(raw), atol=1e-5)


def test_the_audit_counts_items_that_share_both_rows(tmp_path: Path) -> None:
    texts = [f"i{number}" for number in range(300)]
    pq.write_table(pa.table({"user_id": ["u"] * 300, "item_id": texts}), tmp_path / "events.parquet")
    config = experiment(2, root=str(tmp_path), events="events.parquet")
    prepare_log(config, tmp_path / "run", threads=1)
    found = audit(config, Prepared.open(tmp_path / "run"), memory_limit="200MB", threads=1)
    figures = found["item"]["item_id"]["features"]["item_id"]
    pairs = [sorted(slow_pair(number, 20)) for number in fingerprints(texts)]
    shared = sum(pairs.count(pair) > 1 for pair in pairs) / 300
    assert (figures["hashes"], figures["buckets"], figures["buckets_used"]) == (2, 20, 20)
    assert figures["sharing"]["measured"] == pytest.approx(shared) and shared > 0.3
    assert figures["sharing"]["expected"] == pytest.approx(1 - (1 - 39 / 8000) ** 299, rel=1e-4)


def test_tables_are_shared_with_as_many_hashes() -> None:
    config = experiment(2)
    with pytest.raises(ConfigError, match=r"user_features\[1\]: invalid hashes 1 \(expected 2, that of 'item_id'\)"):
        last = Hash("last_item", buckets=20, shared_with="item_id")
        dataclasses.replace(config, user_features=(*config.user_features, last))
