"""Which positives an epoch has: counts by hand, caps that hold, and weights."""

import numpy as np
import pytest

from twotower_tf.config import Downsample, SamplingConfig
from twotower_tf.errors import DataError
from twotower_tf.sampling.epoch_selection import (
    EpochSelection,
    compute_kept_share,
    describe_untimed,
    weigh_rows,
)

# A hundred positives of item 0, fifty of item 1, ten of item 2, and five rows with label 0.
ITEMS = np.repeat([0, 1, 2, 0], [100, 50, 10, 5])
LABEL = np.repeat([1, 0], [160, 5])
USERS = np.arange(165) % 11


def selection(sampling, users=USERS, labelled=False):
    return EpochSelection(sampling, users, ITEMS, LABEL, 4, labelled=labelled)


def test_the_rule_of_word2vec_by_hand():
    # Shares 0.9, 0.09, 0.01 and t = 0.1: (3 + 1) / 9, (sqrt(0.9) + 1) / 0.9 and (sqrt(0.1) + 1) / 0.1, at most 1.
    kept = compute_kept_share(np.array([90.0, 9.0, 1.0, 0.0]), 0.1)
    np.testing.assert_allclose(kept, [4 / 9, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(compute_kept_share(np.array([16.0, 84.0]), 0.04)[0], (2 + 1) / 4)


def test_shares_are_exact_beyond_float32s_whole_numbers():
    # A share z of (2^24 + 1) / 2^26, and the rest; t = 1/16: (sqrt(16 z) + 1) / (16 z).
    counts = np.array([2**24 + 1, 3 * 2**24 - 1])
    z = [16_777_217 / 67_108_864, 50_331_647 / 67_108_864]
    expected = [(4 * each**0.5 + 1) / (16 * each) for each in z]
    np.testing.assert_allclose(compute_kept_share(counts, 1 / 16), expected, rtol=1e-12)
    share = EpochSelection(SamplingConfig(), np.zeros(3, int), np.array([0, 1, 1]), np.ones(3), 2, labelled=False).share
    assert share.tolist() == [1 / 3, 2 / 3]  # as float64; float32's thirds are others


def test_an_epoch_keeps_of_every_item_what_the_rule_says():
    made = selection(SamplingConfig(downsample=Downsample(t=0.05)))
    # z = 100/160 = 0.625: (sqrt(12.5) + 1) / 12.5 = 0.36284; z = 0.3125: (2.5 + 1) / 6.25 = 0.56; z = 0.0625: all.
    expected = np.array([36.284271, 28.0, 10.0])
    assert made.size == 74
    np.testing.assert_allclose(made.share, [*expected / expected.sum(), 0.0], rtol=1e-7)
    often = np.zeros(165)
    for epoch in range(2000):
        rows = made.epoch(np.random.default_rng([1, epoch]))
        assert len(set(rows.tolist())) == len(rows) in (74, 75)
        counts = np.bincount(ITEMS[rows], minlength=3)
        assert abs(counts - expected).max() < 1 + 1e-6
        often[rows] += 1
    # Every row of an item is kept as often as any other: five standard deviations of 2000 trials.
    for rows, probability in ((slice(0, 100), 0.36284271), (slice(100, 150), 0.56)):
        np.testing.assert_allclose(often[rows] / 2000, probability, atol=5 * np.sqrt(0.25 / 2000))
    assert (often[150:160] == 2000).all() and not often[160:].any()


def test_without_thinning_every_positive_comes_once():
    made = selection(SamplingConfig())
    assert made.size == 160
    np.testing.assert_array_equal(np.sort(made.epoch(np.random.default_rng(0))), np.arange(160))
    np.testing.assert_allclose(made.share, [100 / 160, 50 / 160, 10 / 160, 0])


def test_no_user_has_more_than_allowed_and_rows_take_turns():
    made = selection(SamplingConfig(per_user=3))
    assert made.size == 33
    seen = set()
    for epoch in range(200):
        rows = made.epoch(np.random.default_rng([2, epoch]))
        assert np.bincount(USERS[rows], minlength=11).tolist() == [3] * 11
        seen |= set(rows.tolist())
    assert seen == set(range(160))


def test_a_user_below_the_cap_keeps_all():
    users = np.repeat([0, 1, 2, 3], [2, 8, 150, 5])
    made = selection(SamplingConfig(per_user=8), users)
    assert made.size == 18
    rows = made.epoch(np.random.default_rng(0))
    assert np.bincount(users[rows]).tolist() == [2, 8, 8]
    # User 2's 150 rows stand for 8: the shares are those of an epoch, not of the log.
    expected = np.array([10 + 90 * 8 / 150, 50 * 8 / 150, 10 * 8 / 150, 0])
    np.testing.assert_allclose(made.share, expected / 18)


def test_both_at_once():
    made = selection(SamplingConfig(per_user=3, downsample=Downsample(t=0.05)))
    for epoch in range(100):
        assert np.bincount(USERS[made.epoch(np.random.default_rng(epoch))]).max() <= 3


def test_labelled_rows_are_all_kept():
    made = selection(SamplingConfig(downsample=Downsample(t=0.05)), labelled=True)
    rows = made.epoch(np.random.default_rng(0))
    assert made.size == 79 and set(range(160, 165)) <= set(rows.tolist())
    np.testing.assert_allclose(made.share.sum(), 1.0)
    np.testing.assert_allclose(made.share[2], 10 / 74.284271)  # of the positives alone


def test_an_epoch_is_a_function_of_its_seed():
    made = selection(SamplingConfig(downsample=Downsample(t=0.05)))
    one, same, other = (made.epoch(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert set(one.tolist()) != set(other.tolist())


def test_weights_halve_with_age():
    keys = {"timestamp": np.array([1, 6, 11]) * 86_400, "weight": np.array([1.0, 2.0, 3.0], np.float32)}
    assert weigh_rows({"timestamp": keys["timestamp"]}, 0.0) is None
    np.testing.assert_allclose(weigh_rows(keys, 0.0), [1, 2, 3])
    np.testing.assert_allclose(weigh_rows(keys, 5.0), [0.25, 1.0, 3.0])
    np.testing.assert_allclose(weigh_rows({"timestamp": keys["timestamp"]}, 10.0), [0.5, 0.5**0.5, 1.0], rtol=1e-6)


def test_rows_without_a_time_weigh_as_the_others_do_on_average():
    # Ages of 20, 10 and 0 days, two rows without a time. With a half-life of 10 days the others have 1/4, 1/2 and 1.
    keys = {"timestamp": np.array([1, 0, 11, 0, 21]) * 86_400, "weight": np.array([1, 1, 1, 3, 2], np.float32)}
    mean = (0.25 + 0.5 + 1) / 3
    np.testing.assert_allclose(weigh_rows(keys, 10.0), [0.25, mean, 0.5, 3 * mean, 2.0], rtol=1e-6)
    assert describe_untimed(keys["timestamp"], 10.0) == (
        "sampling.recency_half_life: 2 of 5 training rows have no time; each gets the factor 0.583, "
        "the mean of the others"
    )
    assert describe_untimed(keys["timestamp"], 0.0) == describe_untimed(keys["timestamp"][[0, 2]], 10.0) == ""


def test_recency_without_any_time():
    with pytest.raises(DataError) as error:
        weigh_rows({"timestamp": np.zeros(2, np.int64)}, 30.0)
    assert str(error.value) == (
        "sampling.recency_half_life: invalid value 30 for a log without times (no training row has one); name the "
        "column in data.timestamp, or set it to 0"
    )


def test_weights_that_are_all_nothing():
    with pytest.raises(DataError) as error:
        weigh_rows({"timestamp": np.zeros(2), "weight": np.zeros(2)}, 0.0)
    assert str(error.value) == "data.weight: every training row has weight 0 (expected at least one positive weight)"
