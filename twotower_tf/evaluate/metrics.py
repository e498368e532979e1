"""Ranking metrics from the places at which relevant items were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NAMES = ("recall", "ndcg", "hit_rate", "mrr")

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Hits:
    """Relevant items among the answers of all queries, ordered by query, then place.

    Attributes:
        queries: [num_hits] int64.
        places: [num_hits] int64, 0 for the first answer.
        items: [num_hits] int32 item rows.
    """

    queries: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    items: npt.NDArray[np.int32]

    def of_items(self, mask: Mask) -> Hits:
        """The hits whose item is marked."""
        kept = mask[self.items]
        return Hits(self.queries[kept], self.places[kept], self.items[kept])


def per_query(hits: Hits, relevant: npt.NDArray[np.int64], ks: Sequence[int]) -> dict[str, Floats]:
    """Computes recall, ndcg, hit_rate and mrr at each k for every query.

    recall@k is the share of the relevant items among the first k answers; hit_rate@k whether there is any; mrr@k the
    reciprocal place of the first one, 0 beyond k; ndcg@k the gain 1/log2(place + 1) (places from 1) of those found,
    over that of the best possible order of min(k, relevant) items (Järvelin and Kekäläinen, 2002, binary relevance).

    Args:
        hits: where relevant items were found.
        relevant: [num_queries] int64, how many there are to find.
        ks: cut-offs.

    Returns:
        [num_queries] float64 by "NAME@K"; NaN for a query with nothing to find.
    """
    asked = np.where(relevant > 0, 1.0, np.nan)
    gains = 1.0 / np.log2(np.arange(2, max(ks) + 2))
    results: dict[str, dict[int, Floats]] = {name: {} for name in NAMES}
    for k in ks:
        within = hits.places < k
        queries, places = hits.queries[within], hits.places[within]
        found = np.bincount(queries, minlength=len(relevant))
        gain = np.bincount(queries, weights=gains[places], minlength=len(relevant))
        best = np.concatenate([[1.0], np.cumsum(gains[:k])])[np.minimum(relevant, k)]
        first = np.zeros(len(relevant))
        answered, position = np.unique(queries, return_index=True)
        first[answered] = 1.0 / (places[position] + 1)
        results["recall"][k] = asked * found / np.maximum(relevant, 1)
        results["ndcg"][k] = asked * gain / best
        results["hit_rate"][k] = asked * (found > 0)
        results["mrr"][k] = asked * first
    return {f"{name}@{k}": values for name, by_k in results.items() for k, values in by_k.items()}


def mean(values: dict[str, Floats]) -> dict[str, float]:
    """Averages each metric over the queries that have something to find; empty where none has."""
    asked = ~np.isnan(next(iter(values.values())))
    if not asked.any():
        return {}
    return {name: float(column[asked].mean()) for name, column in values.items()}
