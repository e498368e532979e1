"""Recent popularity on logs written out by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from twotower_tf.evaluate import baselines

DAY = 86_400


def log(*rows):
    """A training split of (item, label, day); day None is an unknown time."""
    items, labels, days = zip(*rows, strict=True)
    times = np.array([0 if day is None else 1_600_000_000 + int(day * DAY) for day in days])
    columns = {"item_row": np.int32(items), "label": np.int8(labels), "timestamp": times}
    return SimpleNamespace(columns=lambda split, names: {name: columns[name] for name in names}, num_items=4)


def test_the_last_days_before_the_newest_positive_count():
    """A window of 7 days ends on day 40, the last positive: a negative on day 60 is not one."""
    prepared = log((0, 1, 0), (0, 1, 32.9), (1, 1, 33.1), (1, 1, 40), (2, 1, 36), (3, 0, 39), (3, 1, None), (3, 0, 60))
    counts, days = baselines.count_recent(prepared, 7)
    assert (counts.tolist(), days) == ([0, 2, 1, 0], 7)


def test_a_short_log_has_a_window_of_a_quarter():
    counts, days = baselines.count_recent(log((0, 1, 0), (1, 1, 8.9), (2, 1, 9.1), (2, 1, 12)), 7)
    assert (counts.tolist(), days) == ([0, 0, 2, 0], pytest.approx(3))


@pytest.mark.parametrize("rows", [[(0, 1, None)], [(0, 1, 3), (1, 1, 3), (2, 0, 9)], [(0, 0, 1), (1, 0, 2)]])
def test_without_two_times_there_is_none(rows):
    assert baselines.count_recent(log(*rows), 7) is None
