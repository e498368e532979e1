"""Rankings that any model must beat, through the same code as the model's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.evaluate.ranking import Scorer


def popularity(train_count: npt.NDArray[np.int64]) -> Scorer:
    """Every query gets the items with the most training positives; items with equally many are tied.

    Args:
        train_count: [num_items] int64.
    """
    # Places among the distinct counts: exact in float32, which counts beyond 2^24 would not be.
    _, places = np.unique(train_count, return_inverse=True)
    scores = places.astype(np.float32)
    return lambda start, stop: np.tile(scores, (stop - start, 1))


def random(num_items: int, seed: int) -> Scorer:
    """Every query gets items by chance, the same whatever the blocks are."""

    def score(start: int, stop: int) -> npt.NDArray[np.float32]:
        rows = [np.random.default_rng([seed, query]).random(num_items, np.float32) for query in range(start, stop)]
        return np.stack(rows)

    return score
