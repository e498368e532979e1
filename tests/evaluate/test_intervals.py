"""Confidence intervals of metrics, compared with a bootstrap over users."""

import numpy as np
import pytest

from twotower_tf.evaluate.ranking_metrics import intervals


def test_one_query_per_user_is_the_textbook_interval():
    values = np.random.default_rng(0).random(500)
    low, high = intervals({"a": values}, np.arange(500))["a"]
    error = 1.959964 * values.std(ddof=1) / np.sqrt(500)
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=1e-12)


def test_queries_of_one_user_are_not_independent():
    """Users with one to nine queries, which nearly agree: the bootstrap draws whole users."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(400), rng.integers(1, 10, 400))
    tastes = rng.random(400)
    values = np.clip(tastes[users] + rng.normal(0, 0.05, len(users)), 0, 1)
    sums, counts = np.bincount(users, values), np.bincount(users)
    drawn = rng.integers(0, 400, (4000, 400))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = intervals({"a": values}, users)["a"]
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.004)
    naive = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low > 1.5 * naive


def test_bounds_and_missing_values():
    values = np.array([1.0, 1.0, 1.0, 0.9, np.nan])
    ((low, high),) = intervals({"a": values}, np.array([5, 6, 7, 8, 9])).values()
    assert 0 < low < 0.975 and high == 1.0
    assert intervals({"a": values}, np.array([5, 5, 5, 5, 9])) == {}  # the only other user has no value
