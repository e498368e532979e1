"""Measures recommended lists apart from their accuracy: novelty, diversity within a list, coverage of the catalogue."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.evaluate.ranking import TOP

_BLOCK = 1 << 14  # lists at a time

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


def self_information(train_count: npt.NDArray[np.int64]) -> Floats:
    """Computes each item's self-information in bits, [num_items] float64: -log2((n + 1) / (N + I)).

    n is the number of the item's training positives `train_count`, N that of all items, I the number of items: the
    share of the positives, with one more for every item, as an item without a positive would have infinitely many bits
    (Vargas and Castells, "Rank and relevance in novelty and diversity metrics for recommender systems", 2011, section
    3.1, free discovery).
    """
    bits: Floats = -np.log2((train_count + 1.0) / (train_count.sum() + len(train_count)))
    return bits


def measure_lists(top: npt.NDArray[np.int32], items: Vectors, bits: Floats) -> dict[str, float | None]:
    """Measures the first 10 results of all queries.

    Args:
        top: [num_queries, 10] int32 item rows, -1 where a list is shorter.
        items: [num_items, vector_dim] float32, unit length.
        bits: [num_items] float64, self-information of the items.

    Returns:
        `novelty@10`, the mean over lists of the mean self-information of a list's items (Zhou et al., "Solving the
        apparent diversity-accuracy dilemma of recommender systems", 2010); `diversity@10`, the mean over lists of at
        least two items of the mean of 1 - cosine over all pairs of a list's items (Ziegler et al., "Improving
        recommendation lists through topic diversification", 2005); None where there is no such list; `coverage@10`, the
        share of the catalogue among all lists.
    """
    sizes = (top >= 0).sum(axis=1)
    novelty, diversity = np.zeros(len(top)), np.zeros(len(top))
    for start in range(0, len(top), _BLOCK):
        part, size = top[start : start + _BLOCK], sizes[start : start + _BLOCK]
        there = part >= 0
        novelty[start : start + _BLOCK] = np.where(there, bits[part], 0.0).sum(axis=1) / np.maximum(size, 1)
        # The squared length of a sum of n unit vectors is n plus twice the cosines of all pairs.
        vectors = np.where(there[..., np.newaxis], items[part], np.float32(0))
        length = np.square(vectors.sum(axis=1, dtype=np.float64)).sum(axis=1)
        diversity[start : start + _BLOCK] = 1.0 - (length - size) / np.maximum(size * (size - 1), 1)
    some, pairs = sizes > 0, sizes > 1
    return {
        f"novelty@{TOP}": float(novelty[some].mean()) if some.any() else None,
        f"diversity@{TOP}": float(diversity[pairs].mean()) if pairs.any() else None,
        f"coverage@{TOP}": len(np.unique(top[top >= 0])) / len(items),
    }
