"""Several kinds at once: what they give comes as often as their mixture says."""

import numpy as np
import pytest

from tests.sampling.worlds import ITEMS, fits, one_row, positives, repeated
from twotower_tf.sampling.attributes import SameAttributeSampler
from twotower_tf.sampling.catalogue import PopularitySampler, UniformSampler
from twotower_tf.sampling.mined import MinedSampler
from twotower_tf.sampling.mixture import Columns, Part, RowMixture, SharedPart
from twotower_tf.sampling.rejections import RejectionSampler
from twotower_tf.sampling.rows import Rows

KNOWN = positives()
COUNTS = np.bincount(KNOWN.items, minlength=ITEMS)
CATALOGUE = np.arange(ITEMS)


def mixture():
    uniform = UniformSampler(KNOWN)
    group = CATALOGUE % 5
    group[KNOWN.of(7)[0]] = -1  # the first positive of user 7 has no group
    rng = np.random.default_rng(3)
    mined = MinedSampler(KNOWN, uniform, (3, 12))
    vectors = [rng.normal(size=(rows, 4)).astype(np.float32) for rows in (40, ITEMS)]
    mined.refresh(np.arange(40), *vectors)
    rejected = np.array([3, 3, 3]), np.array([58, 59, 57])
    return RowMixture(
        [
            Part("Uniform", uniform, 4),
            Part("Popularity", PopularitySampler(KNOWN, COUNTS, 0.75, 1.0), 3),
            Part("SameAttribute", SameAttributeSampler(KNOWN, group), 2),
            Part("Rejections", RejectionSampler(KNOWN, *rejected), 1),
            Part("Mined", mined, 2),
        ]
    )


@pytest.mark.parametrize(("user", "parts"), [(3, 12), (7, 9)])
def test_a_million_draws_of_a_mixture_are_as_stated(user, parts):
    """User 7 has no rejections, and the positive no group: the others' draws are all there are."""
    made, row = mixture(), one_row(KNOWN, user, place=int(user == 3))
    drawn, present = made.draw(np.random.default_rng(1), repeated(row, 1_000_000 // 12))
    assert drawn.shape == (83_333, 12) and (present.sum(axis=1) == parts).all()
    counts = np.bincount(drawn[present], minlength=ITEMS)
    allowed = np.setdiff1d(CATALOGUE, KNOWN.of(user))
    log_q = stated(made, row, allowed, present[0])
    probability = np.zeros(ITEMS)
    probability[allowed] = np.exp(log_q.astype(np.float64))
    assert fits(counts, probability / probability.sum())
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-6)
    assert (drawn[~present] == row.own[0]).all()
    wide = repeated(row, 2)
    again = made.log_q(wide, drawn[:2], present[:2])
    np.testing.assert_allclose(np.exp(again[present[:2]]), probability[drawn[:2][present[:2]]], rtol=1e-5)
    assert not again[~present[:2]].any()


def stated(made, row, allowed, present):
    """The log of every allowed item, asked a dozen at a time in the places that are present."""
    logs = np.empty(len(allowed), np.float32)
    places = np.flatnonzero(present)
    for start in range(0, len(allowed), len(places)):
        some = allowed[start : start + len(places)]
        asked = np.full((1, len(present)), row.own[0])
        asked[0, places[: len(some)]] = some
        logs[start : start + len(some)] = made.log_q(row, asked, present[np.newaxis])[0, places[: len(some)]]
    return logs


def own_log_q(made, row):
    drawn, present = made.draw(np.random.default_rng(0), row)
    return made.own_log_q(row, made.log_q(row, drawn, present), present)


def test_the_own_items_probability_is_as_if_it_were_allowed():
    row = one_row(KNOWN, 3)
    rejected = np.array([3, 3]), np.array([57, 58])
    assert len(KNOWN.of(3)) == 8 and not KNOWN.contain(*rejected).any()
    # 3 of 4 draws are uniform over the 52 allowed and the own one; a positive is never a rejection.
    both = RowMixture(
        [Part("Uniform", UniformSampler(KNOWN), 3), Part("Rejections", RejectionSampler(KNOWN, *rejected), 1)]
    )
    np.testing.assert_allclose(own_log_q(both, row), np.log(0.75 / 53), rtol=1e-6)
    # Of rejections alone it could never be one: it counts as they do, each half of the draws.
    alone = RowMixture([Part("Rejections", RejectionSampler(KNOWN, *rejected), 4)])
    np.testing.assert_allclose(own_log_q(alone, row), np.log(0.5), rtol=1e-6)
    # And without any negative there is nothing to compare with.
    assert own_log_q(alone, one_row(KNOWN, 4)).tolist() == [0.0]


def columns(in_batch=True, queue=0, parts=()):
    share = COUNTS / COUNTS.sum()
    return Columns(share, in_batch, [SharedPart(type(each).__name__, each, draws) for each, draws in parts], queue)


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
    drawn, present = made.draw(np.random.default_rng(0), Rows(row.index, row.users, row.own))
    assert not present.any() and drawn.tolist() == [[row.own[0]] * 2]
    assert made.log_q(row, drawn, present).tolist() == [[0.0, 0.0]]
