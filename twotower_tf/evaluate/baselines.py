"""Scores items by popularity, of all time or recent, and at random: baselines that are ranked as the model is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.evaluate.ranking import Scorer
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables.timestamps import SECONDS_PER_DAY

_MOST_OF_SPAN = 0.25  # of the training positives' time; a longer window is not recent


def popularity_scorer(train_count: npt.NDArray[np.int64]) -> Scorer:
    """Scores items by their training positives [num_items], the same for every query; equal counts are tied."""
    # Ranks among the distinct counts: exact in float32, unlike counts beyond 2^24.
    _, places = np.unique(train_count, return_inverse=True)
    scores = places.astype(np.float32)
    return lambda start, stop: np.tile(scores, (stop - start, 1))


def random_scorer(num_items: int, seed: int) -> Scorer:
    """Scores items at random, independently of how queries are split into blocks."""

    def score(start: int, stop: int) -> npt.NDArray[np.float32]:
        rows = [np.random.default_rng([seed, query]).random(num_items, np.float32) for query in range(start, stop)]
        return np.stack(rows)

    return score


def count_recent(prepared: Prepared, days: float) -> tuple[npt.NDArray[np.int64], float] | None:
    """Counts each item's training positives within the last `days` before the newest one.

    (Ji et al., "A re-visit of the popularity baseline in recommender systems", 2020, RecentPop.) Of positives that span
    less than four times `days`, the last quarter of their time counts.

    Returns:
        [num_items] int64 and the length of the window in days; None where fewer than two times are known.
    """
    columns = prepared.columns("train", ["item_row", "label", "timestamp"])
    known = (columns["label"] == 1) & (columns["timestamp"] != 0)
    items, times = columns["item_row"][known], columns["timestamp"][known]
    if not len(times) or times.min() == times.max():
        return None
    last = int(times.max())
    window = min(days * SECONDS_PER_DAY, _MOST_OF_SPAN * (last - int(times.min())))
    counts = np.bincount(items[times > last - window], minlength=prepared.num_items)
    return counts.astype(np.int64), window / SECONDS_PER_DAY
