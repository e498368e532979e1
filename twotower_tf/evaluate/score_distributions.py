"""Compares the scores of held-out items with those of random items of the same queries."""

from __future__ import annotations

from typing import Any

import numpy as np

from twotower_tf.evaluate.collapse import Vectors, count_cosines, summarize_cosines
from twotower_tf.evaluate.protocol import Queries

PAIRS = 20_000


def measure_scores(items: Vectors, users: Vectors, queries: Queries, seed: int) -> dict[str, Any]:
    """Measures the cosines of queries with their held-out items and with random items, as many of each.

    Args:
        items: [num_items, vector_dim] float32, unit length.
        users: [num_queries, vector_dim] float32, unit length.
        queries: the queries; of more than 20,000 held-out items, so many evenly.
        seed: random seed of the random items, drawn uniformly from the catalogue.

    Returns:
        Strict JSON: `pairs`; `held_out` and `random`, mean and percentiles; `above`, the share of pairs in which the
        held-out item has the higher cosine, ties counting half; `histogram` with `edges` and counts of both.
    """
    query, held_out = queries.relevant.block(0, len(queries))
    chosen = np.unique(np.linspace(0, len(query) - 1, min(PAIRS, len(query))).astype(np.int64))
    query, held_out = query[chosen], held_out[chosen]
    drawn = np.random.default_rng(seed).integers(0, len(items), len(query))
    cosines = {
        name: np.einsum("ij,ij->i", users[query], items[rows], dtype=np.float64)
        for name, rows in (("held_out", held_out), ("random", drawn))
    }
    difference = cosines["held_out"] - cosines["random"]
    return {
        "pairs": len(query),
        **{name: summarize_cosines(values) for name, values in cosines.items()},
        "above": float((difference > 0).mean() + 0.5 * (difference == 0).mean()),
        "histogram": count_cosines(cosines),
    }
