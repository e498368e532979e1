"""Negatives from the whole catalogue: a million draws of each kind have the probabilities that it states."""

import numpy as np
import pytest

from tests.sampling.worlds import COLD, ITEMS, USERS, fits, one_row, positives, sample
from twotower_tf.errors import DataError
from twotower_tf.sampling.catalogue_samplers import PopularitySampler, UniformSampler
from twotower_tf.sampling.pairs import Pairs
from twotower_tf.sampling.row_sampler import PositivesBatch

KNOWN = positives()
COUNTS = np.bincount(KNOWN.items, minlength=ITEMS)
CATALOGUE = np.arange(ITEMS)


def samplers():
    yield UniformSampler(KNOWN), np.ones(ITEMS)
    for alpha, floor in ((0.75, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (2.0, 0.5)):
        weights = [max(int(count), floor) ** alpha if max(count, floor) > 0 else 0.0 for count in COUNTS]
        yield PopularitySampler(KNOWN, COUNTS, alpha, floor), np.array(weights)


def test_a_million_draws_of_a_row_are_as_stated():
    for sampler, weights in samplers():
        row = one_row(KNOWN, user=3)
        expected = np.where(np.isin(CATALOGUE, KNOWN.of(3)), 0.0, weights)
        expected /= expected.sum()
        counts = sample(sampler, row)
        assert fits(counts, expected)
        assert not fits(np.roll(counts, 1), expected) or np.allclose(expected, expected[0])  # the test can fail
        allowed = np.setdiff1d(CATALOGUE, KNOWN.of(3))
        np.testing.assert_allclose(sampler.probability(row, allowed[np.newaxis])[0], expected[allowed], rtol=1e-12)
        own = row.own[0]
        alone = weights[own] / (weights[own] + weights[allowed].sum())
        np.testing.assert_allclose(sampler.own_probability(row), alone, rtol=1e-12)


def test_a_million_draws_for_the_whole_batch_are_as_stated():
    for sampler, weights in samplers():
        counts = np.bincount(sampler.propose(np.random.default_rng(2), 1_000_000), minlength=ITEMS)
        assert fits(counts, weights / weights.sum())
        np.testing.assert_allclose(sampler.shared_probability(CATALOGUE), weights / weights.sum(), rtol=1e-12)


def test_the_floor_decides_whether_cold_items_come():
    cold = np.flatnonzero(COUNTS == 0)
    assert cold.tolist() == [56, 57, 58, 59]
    without, with_floor = (PopularitySampler(KNOWN, COUNTS, 0.75, floor) for floor in (0.0, 1.0))
    rng = np.random.default_rng(1)
    assert not np.isin(without.propose(rng, 100_000), cold).any()
    assert np.isin(with_floor.propose(rng, 100_000), cold).any()


def test_counts_beyond_float32s_whole_numbers_are_told_apart():
    many = 16_777_216  # 2^24; the next whole number of float32 is 16,777,218
    counts = np.array([many, many + 1, many + 3, 0])
    known = Pairs(np.array([0, 1]), np.array([0, 1]), 2, 4)
    sampler = PopularitySampler(known, counts, 1.0, 0.0)
    items = np.arange(4)
    assert sampler.weight(items).tolist() == [16_777_216, 16_777_217, 16_777_219, 0]
    assert sampler.shared_probability(items).tolist() == [count / 50_331_652 for count in counts.tolist()]
    # User 0 is left items 1 and 2, user 1 items 0 and 2.
    rows = PositivesBatch(np.arange(2), np.arange(2), np.arange(2))
    assert sampler.probability(rows, np.array([[1], [0]]))[:, 0].tolist() == [
        16_777_217 / 33_554_436, 16_777_216 / 33_554_435
    ]  # fmt: skip

    class Points:
        """On both sides of the ends of items 0 and 1, at 16,777,216 and 33,554,433."""

        def random(self, draws):
            return np.array([16_777_215.5, 16_777_216.5, 33_554_432.5, 33_554_433.5]) / 50_331_652

    assert sampler.propose(Points(), 4).tolist() == [0, 1, 1, 2]


def test_a_user_who_has_almost_everything_gets_what_is_left():
    for sampler, weights in samplers():
        counts = sample(sampler, one_row(KNOWN, user=USERS - 1), draws=20_000)
        left = np.where((CATALOGUE < 2) | (CATALOGUE >= COLD), weights, 0.0)
        assert fits(counts, left / left.sum())


def test_a_user_who_has_everything_is_told_clearly():
    everything = Pairs(np.zeros(20, np.int64), np.arange(20), 1, 20)
    with pytest.raises(DataError) as error:
        UniformSampler(everything).require_left(np.arange(1))
    assert str(error.value) == (
        "sampling.negatives: Uniform has no item to draw for a user with 20 training positives, which include all 20 "
        "items it draws from; exclude such users "
        "(data.exclude) or use InBatchSoftmax() with (InBatch(),)"
    )
    # Who has all that are ever drawn, though not the catalogue, has nothing to draw either.
    warm = Pairs(np.zeros(3, np.int64), np.arange(3), 1, 5)
    counts = np.array([1, 1, 1, 0, 0])
    PopularitySampler(warm, counts, 0.75, 1.0).require_left(np.arange(1))
    with pytest.raises(DataError, match="Popularity has no item to draw for .* include all 3 items it draws from"):
        PopularitySampler(warm, counts, 0.75, 0.0).require_left(np.arange(1))


def test_draws_are_a_function_of_the_seed():
    rows = PositivesBatch(np.arange(9), np.arange(9), np.array([KNOWN.of(user)[0] for user in range(9)]))
    for sampler, _ in samplers():
        one, same, other = (sampler.draw(np.random.default_rng(seed), rows, 5) for seed in (4, 4, 5))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
