"""Batches of rows that are near each other: of about one time, or sequences of about one length."""

from __future__ import annotations

import numpy as np

from twotower_tf.sampling.pairs import Ints


def batches_of_near(order: Ints, values: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Orders rows so that the rows of each batch have values near each other, and the batches are in random order.

    A row's place by value is shifted by less than a batch, at random, so that the batches of two epochs differ.

    Args:
        order: `[n]` rows of an epoch.
        values: `[n]` of the rows, e.g. their times.
        size: rows of a batch.
        rng: generator of the random numbers.

    Returns:
        The rows of `n // size` batches, one after the other; fewer than `size` rows are left out.
    """
    rank = np.empty(len(order))
    rank[np.argsort(values, kind="stable")] = np.arange(len(order))
    by_value = order[np.argsort(rank + size * rng.random(len(order)))]
    count = len(order) // size
    first = rng.integers(0, len(order) - count * size + 1)
    blocks = by_value[first : first + count * size].reshape(count, size)
    return np.asarray(rng.permutation(blocks).reshape(-1))
