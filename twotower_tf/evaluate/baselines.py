"""Scores items by popularity and at random, as baselines that the code of the model's evaluation ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.evaluate.ranking import Scorer


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
