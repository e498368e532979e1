"""Hard negatives obey their rule without exception, and come as often as stated."""

import numpy as np
import pyarrow as pa

from tests.sampling.worlds import ITEMS, USERS, fits, one_row, positives, sample
from twotower_tf.sampling.catalogue_samplers import UniformSampler
from twotower_tf.sampling.mined import MinedSampler
from twotower_tf.sampling.pairs import Pairs
from twotower_tf.sampling.rejections import RejectionSampler
from twotower_tf.sampling.row_sampler import PositivesBatch
from twotower_tf.sampling.same_attribute import SameAttributeSampler, number_groups
from twotower_tf.sampling.skip_above import SkipAboveSampler

KNOWN = positives()
CATALOGUE = np.arange(ITEMS)


def every_row():
    return PositivesBatch(np.arange(len(KNOWN)), KNOWN.owners(), KNOWN.items)


def check(sampler, rows, pool_of, draws=7):
    """Every row draws from the pool that brute force gives it, and from nothing else."""
    some = sampler.available(rows)
    drawn = sampler.draw(np.random.default_rng(2), rows.take(some), draws)
    drawn = iter(drawn.tolist())
    for place in range(len(rows)):
        pool = pool_of(place)
        assert some[place] == bool(pool)
        liked = set(KNOWN.of(int(rows.users[place])).tolist())
        assert not pool & liked
        if pool:
            assert set(next(drawn)) <= pool


def test_groups_are_of_equal_values_and_missing_ones_have_none():
    table = pa.table(
        {
            "city": ["a", "b", "a", "", None, "a", "b"],
            "size": [1.0, 2.0, 1.0, 1.0, 1.0, float("nan"), 2.0],
            "tags": pa.array([["x"], ["y"], ["x"], [], ["x"], ["x"], ["y", "z"]]),
        }
    )
    assert number_groups(table, ("city",)).tolist() == [0, 1, 0, -1, -1, 0, 1]
    assert number_groups(table, ("city", "size")).tolist() == [0, 1, 0, -1, -1, -1, 1]
    one, two, three, *_, last = number_groups(table, ("tags",)).tolist()
    assert one == three and two != one and last not in (one, two)


def groups():
    group = np.random.default_rng(4).integers(-1, 6, ITEMS)
    group[-1] = 6  # an item alone in its group
    return group


def test_the_same_attribute_always():
    group = groups()

    def pool(place):
        own = group[KNOWN.items[place]]
        members = {item for item in range(ITEMS) if own >= 0 and group[item] == own}
        return members - set(KNOWN.of(int(KNOWN.owners()[place])).tolist())

    check(SameAttributeSampler(KNOWN, group), every_row(), pool)


def test_a_million_draws_of_the_same_attribute():
    group = groups()
    sampler = SameAttributeSampler(KNOWN, group)
    row = one_row(KNOWN, 3)
    pool = (group == group[row.own[0]]) & ~np.isin(CATALOGUE, KNOWN.of(3))
    assert group[row.own[0]] >= 0 and pool.sum() > 2
    assert fits(sample(sampler, row), pool / pool.sum())


def test_rejections_are_the_users_own_and_never_taken():
    rng = np.random.default_rng(6)
    users, items = rng.integers(0, USERS - 10, 300), rng.integers(0, ITEMS, 300)
    rejected = set(zip(users.tolist(), items.tolist(), strict=True))

    def pool(place):
        user = int(KNOWN.owners()[place])
        return {item for owner, item in rejected if owner == user} - set(KNOWN.of(user).tolist())

    sampler = RejectionSampler(KNOWN, users, items)
    check(sampler, every_row(), pool)
    first = pool(0)
    counts = sample(sampler, one_row(KNOWN, 0))
    assert len(first) > 2 and fits(counts, np.isin(CATALOGUE, sorted(first)) / len(first))


def lists(rows=600):
    """A log of lists of up to eight places, some rows without a list or a place, some items twice in one."""
    rng = np.random.default_rng(9)
    log = {
        "user": np.repeat(rng.integers(0, USERS - 1, rows // 6), 6),
        "list": np.repeat(rng.permutation(rows // 6) * 10**12, 6),
        "position": np.tile(np.arange(6.0) * 1.5, rows // 6),
        "item": rng.integers(0, ITEMS, rows),
    }
    log["item"][rng.random(rows) < 0.2] = 7
    log["label"] = KNOWN.contain(log["user"], log["item"]).astype(np.int8)
    log["list"][rng.random(rows) < 0.1] = -1
    log["position"][rng.random(rows) < 0.1] = np.nan
    order = rng.permutation(rows)
    return {name: column[order] for name, column in log.items()}


def test_skip_above_takes_only_what_stood_above_in_the_same_list():
    log = lists()
    sampler = SkipAboveSampler(KNOWN, log["user"], log["item"], log["label"], log["list"], log["position"])
    taken = np.flatnonzero(log["label"] == 1)
    rows = PositivesBatch(taken, log["user"][taken], log["item"][taken])

    def pool(place):
        row = taken[place]
        if log["list"][row] < 0 or np.isnan(log["position"][row]):
            return set()
        above = (log["list"] == log["list"][row]) & (log["position"] < log["position"][row]) & (log["label"] == 0)
        return set(log["item"][above].tolist())

    sizes = [len(pool(place)) for place in range(len(taken))]
    assert min(sizes) == 0 and max(sizes) > 2
    check(sampler, rows, pool)
    place = int(np.argmax(sizes))
    one = rows.take(np.array([place]))
    assert fits(sample(sampler, one), np.isin(CATALOGUE, sorted(pool(place))) / sizes[place])


def test_two_users_who_share_a_number_of_a_list_do_not_share_the_list():
    sampler = SkipAboveSampler(
        Pairs(np.array([0, 1]), np.array([2, 3]), 2, 5),
        users=np.array([0, 0, 1, 1]),
        items=np.array([0, 2, 1, 3]),
        label=np.array([0, 1, 0, 1]),
        lists=np.zeros(4, np.int64),
        position=np.array([1.0, 2.0, 1.0, 2.0]),
    )
    rows = PositivesBatch(np.array([1, 3]), np.array([0, 1]), np.array([2, 3]))
    assert sampler.draw(np.random.default_rng(0), rows, 2).tolist() == [[0, 0], [1, 1]]


def test_mined_ones_stand_between_the_two_ranks():
    rng = np.random.default_rng(12)
    users, items = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (USERS, ITEMS))
    sampler = MinedSampler(KNOWN, UniformSampler(KNOWN), (4, 10))
    asked = np.setdiff1d(np.arange(USERS), [5])  # of user 5 no vector comes
    sampler.refresh(asked, users[asked], items)
    rows = every_row()

    def pool(place):
        user = int(rows.users[place])
        liked = set(KNOWN.of(user).tolist())
        ranked = [item for item in np.argsort(-(users[user] @ items.T)).tolist() if item not in liked]
        return set() if user == 5 else set(ranked[3:10])

    assert len(pool(len(rows) - 1)) == 3  # the user who likes all but six
    check(sampler, rows, pool)
    row = one_row(KNOWN, 3)
    place = int(np.flatnonzero(rows.users == 3)[0])
    assert fits(sample(sampler, row), np.isin(CATALOGUE, sorted(pool(place))) / 7)


def test_a_short_catalogue_gives_short_rankings():
    known = Pairs(np.array([0, 0, 1]), np.array([1, 2, 0]), 2, 6)
    sampler = MinedSampler(known, UniformSampler(known), (2, 6))
    scores = np.array([[0.0, 9.0, 8.0, 3.0, 2.0, 1.0], [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]], np.float32)
    sampler.refresh(np.array([0, 1]), scores, np.eye(6, dtype=np.float32))
    rows = PositivesBatch(np.array([0, 2]), np.array([0, 1]), np.array([1, 0]))
    # User 0 is left 3, 4, 5, 0 in this order, of which 3 is the first; user 1 is left 5, 4, 3, 2, 1.
    drawn = sampler.draw(np.random.default_rng(0), rows, 10_000)
    assert fits(np.bincount(drawn[0], minlength=6), [1 / 3, 0, 0, 0, 1 / 3, 1 / 3])
    assert fits(np.bincount(drawn[1], minlength=6), [0, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 0])


def test_before_the_first_ranking_mined_ones_are_uniform():
    sampler = MinedSampler(KNOWN, UniformSampler(KNOWN), (4, 10))
    row = one_row(KNOWN, 3)
    expected = ~np.isin(CATALOGUE, KNOWN.of(3))
    assert sampler.available(row).all() and fits(sample(sampler, row), expected / expected.sum())


def test_blocks_of_users_are_ranked_alike(monkeypatch):
    rng = np.random.default_rng(1)
    users, items = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (USERS, ITEMS))
    rows = every_row()
    drawn = []
    for size in (32 << 20, 8 * ITEMS * 3):
        monkeypatch.setattr("twotower_tf.sampling.mined.BLOCK_BYTES", size)
        sampler = MinedSampler(KNOWN, UniformSampler(KNOWN), (4, 10))
        sampler.refresh(np.arange(USERS), users, items)
        drawn.append(sampler.draw(np.random.default_rng(0), rows, 20))
    np.testing.assert_array_equal(*drawn)
