"""Sets of pairs, and what a whole batch must leave out, against Python's own sets."""

import numpy as np

from twotower_tf.sampling import accidental_hits
from twotower_tf.sampling.pairs import Pairs


def test_membership_equals_a_python_set():
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, 50, 2000), rng.integers(0, 70, 2000)
    known = set(zip(users.tolist(), items.tolist(), strict=True))
    pairs = Pairs(users, items, 60, 70)
    asked_users, asked_items = rng.integers(0, 60, (300, 1)), rng.integers(0, 70, (300, 9))
    got = pairs.contain(asked_users, asked_items)
    for row in range(300):
        for column in range(9):
            assert got[row, column] == ((int(asked_users[row, 0]), int(asked_items[row, column])) in known)
    for user in range(60):
        assert pairs.of(user).tolist() == sorted(item for owner, item in known if owner == user)
    assert pairs.counts.tolist() == [sum(owner == user for owner, _ in known) for user in range(60)]


def test_no_pairs_at_all():
    none = Pairs(np.array([], np.int32), np.array([], np.int32), 3, 5)
    assert not none.contain(np.array([[0]]), np.array([[1, 2]])).any()
    assert none.counts.tolist() == [0, 0, 0]


def test_a_difference_of_sets():
    one = Pairs(np.array([0, 0, 1, 2]), np.array([3, 4, 3, 1]), 3, 5)
    other = Pairs(np.array([0, 2]), np.array([4, 1]), 3, 5)
    left = one.without(other)
    assert [left.of(user).tolist() for user in range(3)] == [[3], [3], []]


def test_accidental_hits_equal_brute_force():
    rng = np.random.default_rng(8)
    for _ in range(20):
        users, items = rng.integers(0, 30, 300), rng.integers(0, 40, 300)
        liked = set(zip(users.tolist(), items.tolist(), strict=True))
        asked = rng.integers(0, 32, 25)
        columns = np.concatenate([rng.integers(0, 40, 50), [-1, -1]])  # with repeats, and empty slots of a queue
        found = accidental_hits.find_hits(Pairs(users, items, 32, 40), asked, columns)
        expected = [
            [row, column]
            for row in range(25)
            for column in range(52)
            if (int(asked[row]), int(columns[column])) in liked
        ]
        assert sorted(found.tolist()) == expected and found.dtype == np.int32
        assert (np.diff(found[:, 0]) >= 0).all()


def test_no_hit_at_all():
    pairs = Pairs(np.array([0]), np.array([1]), 4, 9)
    assert accidental_hits.find_hits(pairs, np.array([2, 3]), np.array([1, 5])).shape == (0, 2)
    assert accidental_hits.find_hits(pairs, np.array([0]), np.array([-1, -1])).shape == (0, 2)


def test_own_hits_are_the_pairs_of_a_row_and_its_own_item():
    rng = np.random.default_rng(6)
    for columns in (rng.integers(-1, 12, 40), np.array([-1, -1]), np.empty(0, int)):
        own = rng.integers(0, 15, 25)
        expected = [[row, column] for row in range(25) for column in range(len(columns)) if own[row] == columns[column]]
        found = accidental_hits.find_own_hits(own, columns)
        assert found.dtype == np.int32 and found.shape == (len(expected), 2)
        assert sorted(found.tolist()) == expected and (np.diff(found[:, 0]) >= 0).all()
