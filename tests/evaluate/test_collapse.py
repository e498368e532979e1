import numpy as np
import pytest

from twotower_tf.evaluate import collapse


def unit(rng, count, dim):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def check(items, users, shown, counts=None):
    return collapse.measure_collapse(
        items, users, np.array(shown), np.zeros(len(items)) if counts is None else counts, seed=1
    )


def test_well_spread_vectors():
    rng = np.random.default_rng(0)
    found = check(unit(rng, 2000, 16), unit(rng, 500, 16), np.ones(2000, int))
    assert found["items_with_shared_vector"] == 0
    assert abs(found["item_cosine"]["mean"]) < 0.01 and abs(found["user_cosine"]["mean"]) < 0.02
    assert found["item_cosine"]["p50"] == pytest.approx(0, abs=0.02)
    assert found["item_cosine"]["p95"] == pytest.approx(1.645 / 4, abs=0.03)  # cosine ~ N(0, 1/16) in 16 dimensions
    assert found["item_effective_rank"] == pytest.approx(16, abs=0.5)
    assert found["coverage@10"] == 1.0


def test_a_collapsed_model():
    items = np.tile(np.float32([1, 0, 0, 0]), (300, 1))
    shown = np.zeros(300, int)
    shown[:10] = 200
    found = check(items, items[:200], shown)
    assert found["item_cosine"] == {"mean": 1, "p5": 1, "p25": 1, "p50": 1, "p75": 1, "p95": 1}
    assert found["item_effective_rank"] == pytest.approx(1.0)
    assert (found["distinct_items@10"], found["coverage@10"]) == (10, 10 / 300)
    assert found["items_with_shared_vector"] == 0  # none of them is trained
    trained = np.arange(300) % 3
    found = check(items, items[:200], shown, trained)
    assert (found["trained_items"], found["items_with_shared_vector"]) == (200, 200)


def test_items_that_share_a_vector():
    """Three of one vector, up to rounding, and two of another."""
    items = unit(np.random.default_rng(0), 40, 8)
    items[[4, 9]], items[30] = items[2], items[31]
    items[9, 0] = np.nextafter(items[9, 0], np.float32(1))
    assert collapse.count_shared(items) == 5


def test_effective_rank_by_hand():
    """Singular values 2 and 1 (four rows along x, one along y): shares 2/3 and 1/3."""
    vectors = np.float32([[1, 0]] * 4 + [[0, 1]])
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert collapse.effective_rank(vectors) == pytest.approx(np.exp(entropy))
    assert collapse.effective_rank(np.eye(5, dtype=np.float32)) == pytest.approx(5.0)


def test_share_of_the_most_popular():
    """One per cent of 200 items is two: items 7 and 3, shown 30 and 10 times of 100."""
    rng = np.random.default_rng(0)
    shown, counts = np.zeros(200, int), np.zeros(200, int)
    shown[[7, 3, 100]] = [30, 10, 60]
    counts[[7, 3, 100]] = [9, 8, 7]
    assert check(unit(rng, 200, 4), unit(rng, 9, 4), shown, counts)["popular_share@10"] == pytest.approx(0.4)


def test_histogram_counts_every_pair():
    rng = np.random.default_rng(0)
    histogram = check(unit(rng, 50, 3), unit(rng, 2, 3), np.ones(50, int))["histogram"]
    assert len(histogram["edges"]) == 41 and (histogram["edges"][0], histogram["edges"][-1]) == (-1, 1)
    assert sum(histogram["item"]) == sum(histogram["user"]) == 20_000


def test_a_single_item_or_user_has_no_pairs():
    one = np.float32([[0.6, 0.8]])
    found = check(one, one, [1])
    assert found["item_cosine"] is None and found["user_cosine"] is None
    assert sum(found["histogram"]["item"]) == 0
