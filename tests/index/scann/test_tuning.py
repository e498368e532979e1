import numpy as np
import pytest

from twotower_tf.index.scann.tuning import compute_recall, sample, tune


def test_recall_counts_answers_as_near_as_the_kth_true_one():
    truth = np.float32([[0.9, 0.8], [0.7, 0.7], [0.5, 0.4]])
    found = np.float32([[0.9, 0.7], [0.7, 0.7], [-np.inf, -np.inf]])
    assert compute_recall(found, truth).tolist() == [0.5, 1.0, 0.0]


def test_a_sample_is_even_and_the_same_every_time():
    users = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert sample(users, 3)[:, 0].tolist() == [0, 8, 18]
    assert sample(users, 10).tolist() == sample(users, 99).tolist() == users.tolist()
    assert sample(users[:0], 5).shape == sample(users, 0).shape == (0, 2)


def planted(leaves_needed, reorder_needed):
    """Answers all ten queries with `leaves_needed` leaves and `reorder_needed` candidates, fewer below."""
    truth = np.tile(np.float32([0.9, 0.8]), (10, 1))

    def search(leaves, reorder):
        right = min(leaves / leaves_needed, reorder / reorder_needed, 1.0)
        scores = truth.copy()
        scores[round(right * 10) :] = 0.0
        return scores

    return search, truth


@pytest.mark.parametrize("needed", [1, 5, 40, 100])
def test_finds_a_setting_that_reaches_the_target(needed):
    search, truth = planted(needed, 4)
    tuned = tune(search, truth, size=1000, leaves=100, target=1.0)
    assert tuned.recall == 1.0
    assert tuned.reorder >= 4 and tuned.leaves_to_search >= 0.95 * needed
    reached = [point for point in tuned.curve if point["recall"] == 1.0]
    cheapest = min(point["microseconds"] for point in reached)
    assert tuned.microseconds == cheapest
    assert {"leaves_to_search": tuned.leaves_to_search, "reorder": tuned.reorder} in [
        {name: point[name] for name in ("leaves_to_search", "reorder")}
        for point in reached
        if point["microseconds"] == cheapest
    ]


def test_searches_everything_where_nothing_less_is_enough():
    search, truth = planted(100, 5000)
    tuned = tune(search, truth, size=10_000, leaves=100, target=1.0)
    assert (tuned.leaves_to_search, tuned.reorder) == (100, 10_000)


def test_one_lucky_half_is_not_enough():
    """Every second query is answered at once, the others only with all leaves: half the sample would mislead."""
    truth = np.tile(np.float32([0.9]), (10, 1))

    def search(leaves, reorder):
        scores = truth.copy()
        scores[1::2] = 0.9 if leaves == 50 else 0.0
        return scores

    assert tune(search, truth, size=100, leaves=50, target=0.5).leaves_to_search == 50
