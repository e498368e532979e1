"""Several kinds at once: what they give comes as often as their mixture says."""

import numpy as np
import pytest

from tests.sampling.worlds import ITEMS, fits, one_row, positives, repeated
from twotower_tf.sampling.catalogue_samplers import PopularitySampler, UniformSampler
from twotower_tf.sampling.mixture import Part, RowMixture, SharedCandidates, SharedPart
from twotower_tf.sampling.rejections import RejectionSampler
from twotower_tf.sampling.row_sampler import PositivesBatch
from twotower_tf.sampling.same_attribute import SameAttributeSampler

KNOWN = positives()
COUNTS = np.bincount(KNOWN.items, minlength=ITEMS)
CATALOGUE = np.arange(ITEMS)


def mixture():
    uniform = UniformSampler(KNOWN)
    group = CATALOGUE % 5
    group[KNOWN.of(7)[0]] = -1  # the first positive of user 7 has no group
    rejected = np.array([3, 3, 3]), np.array([58, 59, 57])
    return RowMixture(
        [
            Part("Uniform", uniform, 4),
            Part("SameAttribute", SameAttributeSampler(KNOWN, group), 2, weight=0.5),
            Part("Popularity", PopularitySampler(KNOWN, COUNTS, 0.75, 1.0), 3),
            Part("Rejections", RejectionSampler(KNOWN, *rejected), 1, weight=8.0),
        ]
    )


EASY, HARD = [0, 1, 2, 3, 6, 7, 8], [4, 5, 9]


@pytest.mark.parametrize(("user", "hard"), [(3, 3), (7, 0)])
def test_a_million_draws_from_the_catalogue_are_as_stated(user, hard):
    """User 7 has no rejections, and the positive no group: these draws are missing."""
    made, row = mixture(), one_row(KNOWN, user, place=int(user == 3))
    drawn, present = made.draw(np.random.default_rng(1), repeated(row, 1_000_000 // 7))
    assert drawn.shape == (142_857, 10) and present[:, EASY].all() and (present[:, HARD].sum(axis=1) == hard).all()
    assert (drawn[~present] == row.own[0]).all()
    counts = np.bincount(drawn[:, EASY].ravel(), minlength=ITEMS)
    allowed = np.setdiff1d(CATALOGUE, KNOWN.of(user))
    # Each allowed item once in the first place, and no matter what in the others.
    asked = np.repeat(allowed[:, np.newaxis], 10, axis=1)
    log_q = made.log_q(repeated(row, len(allowed)), asked, np.full(len(allowed), -2.5, np.float32))
    probability = np.zeros(ITEMS)
    probability[allowed] = np.exp(log_q[:, 0].astype(np.float64))
    assert fits(counts, probability / probability.sum())
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(log_q[:, EASY], np.repeat(log_q[:, :1], 7, axis=1))
    assert (log_q[:, HARD] == -2.5).all()  # that of the own item, which they are compared with


def test_every_draw_has_its_kinds_weight():
    assert mixture().weights.tolist() == [1, 1, 1, 1, 0.5, 0.5, 1, 1, 1, 8]


def test_the_own_items_probability_is_as_if_it_were_allowed():
    row = one_row(KNOWN, 3)
    rejected = np.array([3, 3]), np.array([57, 58])
    assert len(KNOWN.of(3)) == 8 and not KNOWN.contain(*rejected).any()
    # Uniform over the 52 allowed and the own one; a rejection is not drawn from the catalogue.
    both = RowMixture(
        [Part("Uniform", UniformSampler(KNOWN), 3), Part("Rejections", RejectionSampler(KNOWN, *rejected), 1)]
    )
    np.testing.assert_allclose(both.own_log_q(row), np.log(1 / 53), rtol=1e-6)
    # Of rejections alone nothing is corrected.
    alone = RowMixture([Part("Rejections", RejectionSampler(KNOWN, *rejected), 4)])
    assert alone.own_log_q(row).tolist() == [0.0]


def columns(in_batch=True, queue=0, parts=()):
    share = COUNTS / COUNTS.sum()
    return SharedCandidates(
        share, in_batch, [SharedPart(type(each).__name__, each, draws) for each, draws in parts], queue
    )


def test_in_batch_alone_is_the_items_share():
    logs = columns().log_q(np.array([0, 5]), batch=16, queued=0)
    np.testing.assert_allclose(np.exp(logs), [COUNTS[0] / len(KNOWN), COUNTS[5] / len(KNOWN)], rtol=1e-6)


def test_shared_uniform_alone_is_one_over_the_catalogue():
    logs = columns(in_batch=False, parts=[(UniformSampler(KNOWN), 9)]).log_q(np.array([0, 59]), batch=16, queued=0)
    np.testing.assert_allclose(np.exp(logs), [1 / 60, 1 / 60], rtol=1e-6)


def test_columns_of_all_kinds_come_as_often_as_stated():
    parts = [(UniformSampler(KNOWN), 30), (PopularitySampler(KNOWN, COUNTS, 0.5, 2.0), 20)]
    made = columns(queue=40, parts=parts)
    rng = np.random.default_rng(4)
    counts = np.zeros(ITEMS, np.int64)
    for _ in range(4000):
        own, before = rng.choice(KNOWN.items, 16), rng.choice(KNOWN.items, 10)
        items = made.items(own, made.draw(rng), before)
        assert len(items) == 16 + 50 + 40 and (items[66:96] == -1).all()
        np.testing.assert_array_equal(items[96:], before)
        counts += np.bincount(items[items >= 0], minlength=ITEMS)
    q = np.exp(made.log_q(CATALOGUE, batch=16, queued=10).astype(np.float64))
    weights = np.maximum(COUNTS, 2.0) ** 0.5
    by_hand = (26 * COUNTS / len(KNOWN) + 30 / 60 + 20 * weights / weights.sum()) / 76
    np.testing.assert_allclose(q, by_hand, rtol=1e-6)
    assert fits(counts, by_hand)
    assert np.isposinf(made.log_q(np.array([3, -1]), 16, 10)).tolist() == [False, True]


def test_nothing_for_the_batch_is_no_columns():
    assert not columns(in_batch=False)
    assert columns() and columns(in_batch=False, queue=1)


def test_a_row_without_any_negative():
    row = one_row(KNOWN, 3)
    made = RowMixture([Part("Rejections", RejectionSampler(KNOWN, *[np.array([5])] * 2), 2)])
    drawn, present = made.draw(np.random.default_rng(0), PositivesBatch(row.index, row.users, row.own))
    assert not present.any() and drawn.tolist() == [[row.own[0]] * 2]
    assert made.log_q(row, drawn, made.own_log_q(row)).tolist() == [[0.0, 0.0]]
