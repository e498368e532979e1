"""Computes ranking metrics from the ranks of relevant items, as expectations over the order of ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NAMES = ("recall", "ndcg", "hit_rate", "mrr", "map")
_NORMAL_95 = 1.959964  # quantile 0.975 of the standard normal distribution

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Hits:
    """Relevant items that may be among the top k, sorted by query and descending score.

    Attributes:
        queries: [num_hits] int64.
        above: [num_hits] int64, number of items with a higher score: 0 for the first rank.
        tied: [num_hits] int64, number of items with the same score, the item itself included.
        items: [num_hits] int32 item rows.
    """

    queries: Ints
    above: Ints
    tied: Ints
    items: npt.NDArray[np.int32]

    def of_items(self, mask: Mask) -> Hits:
        """Returns the hits whose item is marked."""
        kept = mask[self.items]
        return Hits(self.queries[kept], self.above[kept], self.tied[kept], self.items[kept])


def per_query(hits: Hits, relevant: Ints, ks: Sequence[int]) -> dict[str, Floats]:
    """Computes recall, ndcg, hit_rate, mrr and map at each k for every query.

    recall@k is the share of the relevant items among the top k; hit_rate@k is 1 if there is any, else 0; mrr@k is the
    reciprocal rank of the first one, 0 beyond k; ndcg@k is the gain 1/log2(rank + 1) (ranks from 1) of those found
    divided by that of the ideal order of min(k, relevant) items (Järvelin and Kekäläinen, 2002, binary relevance);
    map@k is the mean over all relevant items of the precision at their ranks, 0 beyond k (trec_eval's map_cut_k).

    Each metric is its exact expectation over all orders of tied items, all equally likely (McSherry and Najork, 2008,
    "Computing information retrieval performance measures efficiently in the presence of tied scores"), so that the
    order of the item rows has no influence.

    Args:
        hits: the relevant items with fewer than max(ks) items above them.
        relevant: [num_queries] int64, number of relevant items.
        ks: cut-offs.

    Returns:
        [num_queries] float64 by "NAME@K"; NaN for a query without relevant items.
    """
    size = len(relevant)
    valid = np.where(relevant > 0, 1.0, np.nan)
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, max(ks) + 2)))])  # of the first n ranks
    groups = _Groups.of(hits)
    results: dict[str, dict[int, Floats]] = {name: {} for name in NAMES}
    reciprocal = _reciprocal_of_first(groups, size, ks)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, max(ks) + 1))])
    for k in ks:
        begin, end = np.minimum(hits.above, k), np.minimum(hits.above + hits.tied, k)
        found = np.bincount(hits.queries, weights=(end - begin) / hits.tied, minlength=size)
        gain = np.bincount(hits.queries, weights=(gains[end] - gains[begin]) / hits.tied, minlength=size)
        results["recall"][k] = valid * found / np.maximum(relevant, 1)
        results["ndcg"][k] = valid * gain / np.where(relevant > 0, gains[np.minimum(relevant, k)], 1.0)
        results["hit_rate"][k] = valid * (1.0 - _probability_of_none(groups, size, k))
        results["mrr"][k] = valid * reciprocal[k]
        results["map"][k] = valid * _sum_of_precisions(groups, size, k, harmonic) / np.maximum(relevant, 1)
    return {f"{name}@{k}": values for name, by_k in results.items() for k, values in by_k.items()}


@dataclass(frozen=True)
class _Groups:
    """Groups of tied items that include a relevant one, sorted by query and descending score.

    Attributes:
        queries: [num_groups] int64.
        above: [num_groups] int64, number of items with a higher score.
        tied: [num_groups] int64, number of items of the group.
        relevant: [num_groups] int64, number of relevant items of the group.
    """

    queries: Ints
    above: Ints
    tied: Ints
    relevant: Ints

    @classmethod
    def of(cls, hits: Hits) -> _Groups:
        first = np.ones(len(hits.queries), np.bool_)
        first[1:] = (hits.queries[1:] != hits.queries[:-1]) | (hits.above[1:] != hits.above[:-1])
        starts = np.flatnonzero(first)
        relevant = np.diff(np.append(starts, len(first)))
        return cls(hits.queries[starts], hits.above[starts], hits.tied[starts], relevant)


def _probability_of_none(groups: _Groups, size: int, k: int) -> Floats:
    """Returns the probability that no relevant item is among the top k, [num_queries].

    A group of T items with r relevant ones that has m ranks within k has none there with probability
    C(T - r, m) / C(T, m), the product of (T - r - j) / (T - j) over j below m. Groups are ordered independently.
    """
    slots = np.minimum(groups.above + groups.tied, k) - np.minimum(groups.above, k)
    none = np.ones(len(slots))
    alone = groups.tied == 1
    none[alone & (slots > 0)] = 0.0
    left = np.flatnonzero(~alone & (slots > 0))
    for j in range(int(slots[left].max(initial=0))):
        left = left[(slots[left] > j) & (none[left] > 0.0)]
        if not len(left):
            break
        tied, others = groups.tied[left], groups.tied[left] - groups.relevant[left]
        none[left] *= np.maximum(others - j, 0) / (tied - j)
    result = np.ones(size)
    np.multiply.at(result, groups.queries, none)
    return result


def _sum_of_precisions(groups: _Groups, size: int, k: int, harmonic: Floats) -> Floats:
    """Returns the expected sum of the precisions at the ranks of relevant items within the top k, [num_queries].

    With A items above a group of T items, R relevant ones among those above and r in the group, place j of the group
    (from 1) has a relevant item with probability r / T, and then R + 1 + (j - 1) (r - 1) / (T - 1) relevant items up to
    it, in expectation, of A + j items (McSherry and Najork, 2008).

    Args:
        groups: as of the hits.
        size: number of queries.
        k: cut-off.
        harmonic: [at least k + 1] sums of 1/1 to 1/n by n.
    """
    before = np.cumsum(groups.relevant) - groups.relevant
    first = np.ones(len(before), np.bool_)
    first[1:] = groups.queries[1:] != groups.queries[:-1]
    before = before - np.maximum.accumulate(np.where(first, before, 0))  # since the query's first group
    begin, end = np.minimum(groups.above, k), np.minimum(groups.above + groups.tied, k)
    inverse = harmonic[end] - harmonic[begin]  # sum of 1 / (A + j)
    others = (groups.relevant - 1) / np.maximum(groups.tied - 1, 1)
    # the sum of (j - 1) / (A + j) is that of 1 - (A + 1) / (A + j)
    total = (before + 1) * inverse + others * (end - begin - (groups.above + 1) * inverse)
    weights = groups.relevant / groups.tied * total
    found: Floats = np.bincount(groups.queries, weights=weights, minlength=size).astype(np.float64)
    return found


def _reciprocal_of_first(groups: _Groups, size: int, ks: Sequence[int]) -> dict[int, Floats]:
    """Returns the expected reciprocal rank of the first relevant item, 0 beyond k: [num_queries] by k.

    It is in the best group with a relevant item: with A items above, T in the group and r relevant ones, at rank
    A + x + 1 with probability p(x) = C(T - 1 - x, r - 1) / C(T, r): p(0) = r / T, and p(x + 1) = p(x) (T - r - x) /
    (T - 1 - x).
    """
    best = np.ones(len(groups.queries), np.bool_)
    best[1:] = groups.queries[1:] != groups.queries[:-1]
    above, tied, relevant = groups.above[best], groups.tied[best], groups.relevant[best]
    results = {k: np.zeros(len(above)) for k in ks}
    chance = relevant / tied
    left = np.flatnonzero(above < max(ks))
    for x in range(max(ks)):
        for k in ks:
            within = left[above[left] + x < k]
            results[k][within] += chance[within] / (above[within] + x + 1)
        others = tied[left] - relevant[left] - x
        left, others = left[others > 0], others[others > 0]
        chance[left] *= others / (tied[left] - 1 - x)
        left = left[above[left] + x + 1 < max(ks)]
        if not len(left):
            break
    found = {k: np.zeros(size) for k in ks}
    for k in ks:
        found[k][groups.queries[best]] = results[k]
    return found


def intervals(values: dict[str, Floats], users: Ints) -> dict[str, tuple[float, float]]:
    """Computes a 95 % confidence interval of each metric's mean over queries, within [0, 1].

    Normal approximation with the variance of a mean of clusters, as queries of one user are not independent: with the
    sum r of a user's deviations from the mean m of n queries, m ± 1.96 sqrt(U / (U - 1) Σ r²) / n over U users
    (Liang and Zeger, "Longitudinal data analysis using generalized linear models", 1986). With one query per user it is
    the usual m ± 1.96 s / sqrt(n).

    Args:
        values: [num_queries] float64 by metric, NaN for a query without relevant items.
        users: [num_queries] int64, the user of each query.

    Returns:
        Lower and upper bound by metric; empty for fewer than two users.
    """
    valid = ~np.isnan(next(iter(values.values())))
    _, user = np.unique(users[valid], return_inverse=True)
    count = int(user.max(initial=-1)) + 1
    if count < 2:
        return {}
    found = {}
    for name, column in values.items():
        own = column[valid]
        center = float(own.mean())
        sums = np.bincount(user, own - center)
        error = _NORMAL_95 * float(np.sqrt(count / (count - 1) * (sums**2).sum())) / len(own)
        found[name] = (max(0.0, center - error), min(1.0, center + error))
    return found


def mean(values: dict[str, Floats]) -> dict[str, float]:
    """Averages each metric over the queries with relevant items; empty if there are none."""
    valid = ~np.isnan(next(iter(values.values())))
    if not valid.any():
        return {}
    return {name: float(column[valid].mean()) for name, column in values.items()}
