"""Uniform negatives: exactly uniform over what is allowed, and never a positive."""

import numpy as np
import pytest

from twotower_tf.errors import DataError
from twotower_tf.sampling.negatives import Positives, uniform

# The 0.999 quantile of chi-square with 6 degrees of freedom, from a printed table.
CHI_SQUARE_6_999 = 22.458


def test_membership_equals_a_python_set():
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 50, 2000), rng.integers(0, 70, 2000)
    known = set(zip(users.tolist(), items.tolist(), strict=True))
    positives = Positives(users, items, 70)
    asked_users, asked_items = rng.integers(0, 60, (300, 1)), rng.integers(0, 70, (300, 9))
    got = positives.contain(asked_users, asked_items)
    for row in range(300):
        for column in range(9):
            assert got[row, column] == ((int(asked_users[row, 0]), int(asked_items[row, column])) in known)


def test_no_positives_at_all():
    none = Positives(np.array([], np.int32), np.array([], np.int32), 5)
    assert not none.contain(np.array([[0]]), np.array([[1, 2]])).any()


def test_a_million_draws_are_uniform_over_the_allowed_items():
    # User 0 of ten items likes 1 and 2, and the row's own item is 5: seven items remain.
    positives = Positives(np.array([0, 0]), np.array([1, 2]), 10)
    users, own = np.zeros(1000, np.int64), np.full(1000, 5)
    drawn = uniform(np.random.default_rng(11), positives, users, own, 1000, 10)
    counts = np.bincount(drawn.reshape(-1), minlength=10)
    assert counts[[1, 2, 5]].sum() == 0
    expected = 1_000_000 / 7
    statistic = ((counts[[0, 3, 4, 6, 7, 8, 9]] - expected) ** 2 / expected).sum()
    assert statistic < CHI_SQUARE_6_999


def test_a_user_who_has_all_but_one_item_still_gets_it():
    positives = Positives(np.zeros(998, np.int64), np.arange(998), 1000)
    drawn = uniform(np.random.default_rng(1), positives, np.array([0, 1]), np.array([998, 3]), 4, 1000)
    assert drawn[0].tolist() == [999] * 4
    assert 3 not in drawn[1].tolist()


def test_a_user_who_has_everything_is_told_clearly():
    positives = Positives(np.zeros(20, np.int64), np.arange(20), 20)
    with pytest.raises(DataError) as error:
        uniform(np.random.default_rng(1), positives, np.array([0]), np.array([3]), 2, 20)
    assert str(error.value) == (
        "a user with 20 training positives leaves none of the catalogue's 20 items to draw negatives from; "
        "exclude such users (data.exclude) or use InBatchSoftmax()"
    )


def test_draws_are_a_function_of_the_seed():
    positives = Positives(np.array([0]), np.array([1]), 100)
    one, same, other = (
        uniform(np.random.default_rng(seed), positives, np.arange(9), np.arange(9), 5, 100) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
