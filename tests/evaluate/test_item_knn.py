"""The item-KNN baseline, compared with loops over users and items."""

import itertools
import math

import numpy as np
import pytest

from tests.evaluate.worlds import random_world
from twotower_tf.config import EvaluationConfig
from twotower_tf.evaluate import item_knn
from twotower_tf.evaluate.protocol import build_queries


def similarities(world):
    """Cosines of the columns of the users x items matrix of training positives, by sets."""
    users = [
        {user for user, item, label in world.splits["train"] if label and item == i} for i in range(world.num_items)
    ]
    found = np.zeros((world.num_items, world.num_items))
    for one, other in itertools.permutations(range(world.num_items), 2):
        if common := len(users[one] & users[other]):
            found[one, other] = common / math.sqrt(len(users[one]) * len(users[other]))
    return found


@pytest.mark.parametrize("way", ["products", "matrix", "sparse"])
@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_scores(tmp_path, monkeypatch, way, split, exclude_seen):
    monkeypatch.setattr(item_knn, "_DENSE_ITEMS", 0 if way == "sparse" else 100)
    monkeypatch.setattr(item_knn, "_PAIR_PRODUCTS", 10**9 if way == "products" else 0)
    monkeypatch.setattr(item_knn, "_BLOCK_BYTES", 4 * 11 * 5)  # five users at a time
    world = random_world(np.random.default_rng(3), num_users=14, num_items=11)
    queries = build_queries(world, EvaluationConfig(ks=(5,), exclude_seen=exclude_seen), split)
    scorer = item_knn.item_knn_scorer(world, queries, split, tmp_path)
    expected = similarities(world)
    past = world.splits["train"] + (world.splits["valid"] if split == "test" else [])
    for query, user in enumerate(queries.user_rows):
        had = {item for each, item, label in past if each == user and label}
        wanted = sum((expected[item] for item in had), np.zeros(world.num_items))
        scores = scorer(query, query + 1)[0] * 2.0**-18 * max(1, len(had))  # the mean, in steps of 2^-18
        np.testing.assert_allclose(scores, wanted, atol=2.0**-18 * max(1, len(had)))
    whole = scorer(0, len(queries))
    alone = np.concatenate([scorer(at, at + 1) for at in range(len(queries))])
    np.testing.assert_allclose(whole, alone, atol=1)  # a step, where rounding decides
    assert whole.dtype == np.float32 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", ["MOST_PAIRS", "MOST_NEIGHBOURS"])
def test_too_many_pairs_are_left_out(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(item_knn, limit, 10)
    monkeypatch.setattr(item_knn, "_PAIR_PRODUCTS", 0)
    world = random_world(np.random.default_rng(3))
    queries = build_queries(world, EvaluationConfig(ks=(5,)), "test")
    assert item_knn.item_knn_scorer(world, queries, "test", tmp_path) is None


def test_a_log_without_training_positives(tmp_path):
    found = item_knn.count_neighbours(np.empty(0, np.int32), np.zeros(4, np.int64), 3, tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.scores(np.array([0, 0]), np.array([1, 2]), 2), np.zeros((2, 3)))
