"""`growing`: an item is a negative of the time since it was added."""

import numpy as np
import pytest

from tests.sampling.worlds import ITEMS, one_row, positives, repeated
from twotower_tf.sampling.availability import compute_log_availability
from twotower_tf.sampling.catalogue_samplers import UniformSampler
from twotower_tf.sampling.mixture import Part, RowMixture, SharedCandidates, SharedPart

DAY = 86_400


def log_of(*events: tuple[int, float, int]) -> dict[str, np.ndarray]:
    """Key columns of (item, day, label)."""
    item, day, label = (np.array(column) for column in zip(*events, strict=True))
    return {"item_row": item, "timestamp": (1_000_000 + day * DAY).astype(np.int64), "label": label}


def positives_of(keys: dict[str, np.ndarray], items: int) -> np.ndarray:
    return np.bincount(keys["item_row"][keys["label"] == 1], minlength=items)


def test_an_item_counts_for_the_share_of_positives_since_it_came() -> None:
    # Item 0 is there from the start. Item 1 has events of days 5, 6, 8, and the log ends with day 8: it was added a gap
    # of 3 / 3 days before its first one, on day 4, as 5 of 10 positives or more did not. Item 2 is never taken.
    old = [(0, float(day), 1) for day in (0, 1, 2, 3, 4, 7, 8)]
    keys = log_of(*old, (1, 5.0, 0), (1, 6.0, 1), (1, 8.0, 1), (2, 7.0, 0))
    logs = compute_log_availability(keys, 4, positives_of(keys, 4))
    # Of 9 positives, those of days 4, 6, 7, 8, 8.
    np.testing.assert_allclose(logs, [0.0, np.log(5 / 9), -np.inf, -np.inf])


def test_weights_and_earlier_runs_count() -> None:
    keys = log_of((0, 0.0, 1), (0, 1.0, 1), (1, 3.0, 1), (1, 3.0, 1), (2, 3.0, 1))
    count = positives_of(keys, 3)
    weights = np.array([4.0, 2.0, 1.0, 1.0, 0.0], np.float32)
    np.testing.assert_allclose(compute_log_availability(keys, 3, count), np.log([1, 3 / 5, 3 / 5]))
    # Item 2 has a row that weighs nothing; rows of its time weigh 2 of 8.
    np.testing.assert_allclose(compute_log_availability(keys, 3, count, weights), np.log([1, 2 / 8, 2 / 8]))
    # An item that an earlier run had was there before.
    np.testing.assert_allclose(compute_log_availability(keys, 3, count + [0, 1, 0]), np.log([1, 1, 3 / 5]))
    # The last row alone, which weighs nothing: one of five rows, not none.
    alone = np.array([1.0, 1.0, 1.0, 1.0, 0.0], np.float32)
    late = log_of((0, 0.0, 1), (0, 1.0, 1), (1, 2.0, 1), (1, 2.0, 1), (2, 3.0, 1))
    assert compute_log_availability(late, 3, count, alone)[2] == pytest.approx(np.log(1 / 5))


def test_rows_without_a_time_do_not_count() -> None:
    keys = log_of((0, 0.0, 1), (1, 5.0, 1), (1, 6.0, 1), (0, 6.0, 1), (2, 6.0, 1))
    keys["timestamp"][[1, 4]] = 0
    # Of three timed rows item 1 has the last but one, at the end of the log; item 2 has none.
    logs = compute_log_availability(keys, 3, positives_of(keys, 3))
    np.testing.assert_allclose(np.exp(logs), [1.0, 2 / 3, 1.0])
    keys["timestamp"][:] = 0
    assert compute_log_availability(keys, 3, positives_of(keys, 3)).tolist() == [0.0, 0.0, 0.0]


def test_the_first_of_a_few_events_is_not_taken_for_the_beginning() -> None:
    """Times are drawn, and of items added on day 6 of 10 the estimate is right in the mean, with 2 events or 20."""
    rng = np.random.default_rng(3)
    for events in (2, 20):
        times = 6.0 + 4.0 * rng.random((400, events))
        background = [(0, float(day), 1) for day in np.linspace(0.0, 10.0, 2_000)]
        late = [(item, float(day), 1) for item, row in enumerate(times, 1) for day in row]
        keys = log_of(*background, *late)
        weights = np.repeat(
            np.array([1, 0], np.float32), [2_000, 400 * events]
        )  # shares of the background, which is even
        share = np.exp(compute_log_availability(keys, 401, positives_of(keys, 401), weights)[1:])
        assert share.mean() == pytest.approx(0.4, abs=0.02)


def test_logits_have_the_log_of_the_availability() -> None:
    known = positives()
    logs = np.where(np.arange(ITEMS) < 3, np.log([0.5, 0.25, 1.0] + [1.0] * (ITEMS - 3)), 0.0)
    logs[50] = -np.inf  # an item that is not available
    counts = np.bincount(known.items, minlength=ITEMS)
    share, parts = counts / counts.sum(), [SharedPart("Uniform", UniformSampler(known), 8)]
    items = np.array([0, 1, 2, 50, -1], np.int32)
    log_q = SharedCandidates(share, True, parts, 4, logs).log_q(items, batch=16, queued=2)
    q = (18 * share[items[:3]] + 8 / ITEMS) / 26
    np.testing.assert_allclose(np.exp(log_q[:3]), q / [0.5, 0.25, 1.0], rtol=1e-6)
    assert log_q[3:].tolist() == [np.inf, np.inf]

    # A row's own draws: those of item 50 are absent, and its own item's logit has its availability, too.
    row = one_row(known, 3)
    left = ITEMS - len(known.of(3))
    alone = np.zeros(ITEMS)
    alone[row.own[0]], alone[[50, 51]] = np.log(0.125), (-np.inf, np.log(0.5))
    made = RowMixture([Part("Uniform", UniformSampler(known), 400)], alone)
    drawn, present = made.draw(np.random.default_rng(2), repeated(row, 10))
    assert not (drawn == 50).any() and (drawn[~present] == row.own[0]).all()
    assert 20 < np.count_nonzero(~present) < 200  # 4,000 draws of some fifty items
    own = made.own_log_q(row)
    np.testing.assert_allclose(np.exp(own), 1 / (left + 1) / 0.125, rtol=1e-6)
    asked = np.full((1, 400), 51)
    asked[0, 0] = 52
    log_q = made.log_q(row, asked, own)
    np.testing.assert_allclose(np.exp(log_q[0, :2]), [1 / left, 1 / left / 0.5], rtol=1e-6)
