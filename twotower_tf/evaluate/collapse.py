"""Detects representation collapse: vectors that no longer distinguish users or items.

A two-tower model can fail with a falling loss: all vectors drift into one direction, or every user gets the same
popular items. These statistics show it earlier than ranking metrics do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.evaluate.ranking import TOP

PAIRS = 20_000
_PERCENTILES = (5, 25, 50, 75, 95)
_BINS = 40
_POPULAR_SHARE = 0.01

Vectors = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


def measure_collapse(items: Vectors, users: Vectors, shown: Counts, train_count: Counts, seed: int) -> dict[str, Any]:
    """Measures the spread of the vectors and of the recommendations.

    Args:
        items: [num_items, vector_dim] float32, unit length.
        users: [num_queries, vector_dim] float32, unit length.
        shown: [num_items] int64, number of queries with the item among their first 10 results.
        train_count: [num_items] int64, training positives of each item.
        seed: random seed of the pairs.

    Returns:
        Strict JSON: cosines of random pairs, effective rank, trained items that have the vector of another one,
        coverage, and share of the most popular items.
    """
    rng = np.random.default_rng(seed)
    cosines = {"item": pair_cosines(items, rng), "user": pair_cosines(users, rng)}
    popular = np.argsort(-train_count, kind="stable")[: max(1, int(np.ceil(_POPULAR_SHARE * len(train_count))))]
    distinct, slots = int((shown > 0).sum()), max(1, int(shown.sum()))
    return {
        "item_cosine": summarize_cosines(cosines["item"]),
        "user_cosine": summarize_cosines(cosines["user"]),
        "item_effective_rank": effective_rank(items),
        "vector_dim": int(items.shape[1]),
        # Items without a training positive have no vector of their own id: equal features give equal vectors.
        "trained_items": int((train_count > 0).sum()),
        "items_with_shared_vector": count_shared(items[train_count > 0]),
        f"distinct_items@{TOP}": distinct,
        f"coverage@{TOP}": distinct / len(items),
        f"popular_share@{TOP}": float(shown[popular].sum() / slots),
        "histogram": count_cosines(cosines),
    }


def pair_cosines(vectors: Vectors, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Computes cosines of random pairs of different rows; empty for fewer than two rows."""
    if len(vectors) < 2:
        return np.empty(0)
    first = rng.integers(0, len(vectors), PAIRS)
    second = (first + rng.integers(1, len(vectors), PAIRS)) % len(vectors)
    cosines: npt.NDArray[np.float64] = np.einsum("ij,ij->i", vectors[first], vectors[second], dtype=np.float64)
    return cosines


def effective_rank(vectors: Vectors) -> float:
    """Computes the exponential of the entropy of the normalized singular values (Roy and Vetterli, 2007)."""
    gram = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), 1 << 16):
        part = vectors[start : start + (1 << 16)].astype(np.float64)
        gram += part.T @ part
    # Squared singular values below the rounding error of the Gram matrix are taken as zero.
    squared = np.linalg.eigvalsh(gram)
    singular = np.sqrt(np.where(squared > squared[-1] * 1e-12, squared, 0.0))
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def count_shared(vectors: Vectors) -> int:
    """Counts the rows that are equal to another row after rounding to multiples of 2^-16."""
    rounded = np.rint(vectors * np.float32(2**16)).astype(np.int32)
    rows = rounded.view(np.dtype((np.void, rounded.shape[1] * rounded.itemsize))).ravel()
    _, counts = np.unique(rows, return_counts=True)
    return int(counts[counts > 1].sum())


def count_cosines(cosines: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
    """Counts cosines in 40 bins from -1 to 1: `edges`, and a list of counts by name."""
    edges = np.linspace(-1.0, 1.0, _BINS + 1)
    counts = {name: np.histogram(np.clip(values, -1, 1), edges)[0].tolist() for name, values in cosines.items()}
    return {"edges": [round(float(edge), 4) for edge in edges], **counts}


def summarize_cosines(cosines: npt.NDArray[np.float64]) -> dict[str, float] | None:
    """Returns the mean and percentiles; None of no cosine."""
    if not len(cosines):
        return None
    percentiles = np.percentile(cosines, _PERCENTILES)
    named = {f"p{percent}": float(value) for percent, value in zip(_PERCENTILES, percentiles, strict=True)}
    return {"mean": float(cosines.mean()), **named}
