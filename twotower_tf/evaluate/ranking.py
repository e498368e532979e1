"""Ranks the whole catalogue exactly for every query, in blocks of bounded memory.

Tied items have no order: metrics are expectations over all orders of them (see `ranking_metrics`). Scores within
rounding error of each other are tied, so that a model whose vectors have collapsed is not measured by rounding errors.
Recommendations and `shown` break ties by item row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower_tf.errors import DataError
from twotower_tf.evaluate import ranking_metrics
from twotower_tf.evaluate.protocol import ItemLists, Queries
from twotower_tf.evaluate.ranking_metrics import Floats, Hits, Mask
from twotower_tf.index import topk
from twotower_tf.progress import Progress, silent

TOP = 10  # results per query that count as shown

_BLOCK_BYTES = 32 << 20  # of scores held by one thread
# Scores are rounded to multiples of this. The error of a float32 dot product of unit vectors of 64 coordinates is at
# most 64 * 2^-24 = 2^-18 (Higham, section 3.1); meaningful differences of cosines are hundreds of times larger.
_RESOLUTION = 2.0**-18

Scorer = Callable[[int, int], npt.NDArray[np.float32]]
"""(start, stop) -> scores [stop - start, num_items] float32 of these queries, which the ranking may overwrite."""


@dataclass(frozen=True)
class Ranking:
    """The result of ranking the catalogue for all queries.

    Attributes:
        ks: cut-offs of the metrics.
        relevant: relevant items of each query.
        hits: ranks of the relevant items.
        top: [num_queries, 10] int32, item rows of the first 10 results, ties by item row; -1 where there are fewer.
        num_items: number of items ranked.
    """

    ks: tuple[int, ...]
    relevant: ItemLists
    hits: Hits
    top: npt.NDArray[np.int32]
    num_items: int

    @property
    def shown(self) -> npt.NDArray[np.int64]:
        """Number of queries with the item among their first 10 results, [num_items] int64."""
        return np.bincount(self.top[self.top >= 0], minlength=self.num_items)

    def per_query(self, item_mask: Mask | None = None) -> dict[str, Floats]:
        """Computes metrics per query; with `item_mask`, only the marked items count as relevant."""
        if item_mask is None:
            return ranking_metrics.per_query(self.hits, self.relevant.counts, self.ks)
        return ranking_metrics.per_query(self.hits.of_items(item_mask), self.relevant_of(item_mask), self.ks)

    def mean(self, item_mask: Mask | None = None) -> dict[str, float]:
        """Averages metrics over the queries that have a (marked) relevant item; empty if there are none."""
        return ranking_metrics.mean(self.per_query(item_mask))

    def relevant_of(self, item_mask: Mask) -> npt.NDArray[np.int64]:
        """Returns the number of marked relevant items of each query."""
        query, item = self.relevant.block(0, len(self.relevant))
        return np.bincount(query[item_mask[item]], minlength=len(self.relevant))


def rank(
    query_vectors: npt.NDArray[np.float32],
    item_vectors: npt.NDArray[np.float32],
    queries: Queries,
    ks: Sequence[int],
    *,
    block: int = 0,
    threads: int = 0,
    progress: Progress = silent,
) -> Ranking:
    """Ranks all items for every query by dot product; scores are tied if equal after rounding to 2^-18.

    Args:
        query_vectors: [num_queries, vector_dim] float32, unit length.
        item_vectors: [num_items, vector_dim] float32, unit length.
        queries: the queries, with relevant and excluded items.
        ks: cut-offs, which may exceed the size of the catalogue.
        block: queries per block and thread; 0 limits the scores of a block to 32 MB.
        threads: maximum number of threads; 0 is one per core.
        progress: receives the number of queries ranked.

    Raises:
        DataError: if a vector has NaN or infinite values.
    """
    for name, vectors in (("user", query_vectors), ("item", item_vectors)):
        if not np.isfinite(vectors).all():
            broken = int((~np.isfinite(vectors).all(axis=1)).sum())
            raise DataError(
                f"evaluation: {broken} of {len(vectors)} {name} vectors have NaN or infinite values (the model "
                "diverged); lower train.initial_lr and train again"
            )
    items = item_vectors.T

    def score(start: int, stop: int) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = query_vectors[start:stop] @ items
        scores *= np.float32(1.0 / _RESOLUTION)
        np.rint(scores, out=scores)
        return scores

    return rank_scores(score, len(item_vectors), queries, ks, block=block, threads=threads, progress=progress)


def rank_scores(
    scorer: Scorer,
    num_items: int,
    queries: Queries,
    ks: Sequence[int],
    *,
    block: int = 0,
    threads: int = 0,
    progress: Progress = silent,
    stage: str = "rank",
) -> Ranking:
    """Ranks all items by the scores of a scorer; see `rank`."""
    total, deepest = len(queries), max(*ks, TOP)
    size = block or max(1, _BLOCK_BYTES // (4 * num_items))

    def answer(start: int) -> tuple[Hits, npt.NDArray[np.int32]]:
        stop = min(start + size, total)
        return _rank_block(scorer(start, stop), start, stop, queries, deepest)

    parts: list[Hits] = []
    top = np.full((total, TOP), -1, np.int32)
    progress(stage, 0, total)
    with ThreadPoolExecutor(topk.available_threads(threads)) as pool:
        for number, (hits, block_top) in enumerate(pool.map(answer, range(0, total, size))):
            parts.append(hits)
            top[number * size : (number + 1) * size, : block_top.shape[1]] = block_top
            progress(stage, min((number + 1) * size, total), total)
    nothing = Hits(*(np.empty(0, np.int64),) * 3, np.empty(0, np.int32))
    joined = [
        np.concatenate([getattr(part, field.name) for part in (nothing, *parts)]) for field in dataclasses.fields(Hits)
    ]
    return Ranking(tuple(ks), queries.relevant, Hits(*joined), top, num_items)


def _rank_block(
    scores: npt.NDArray[np.float32], start: int, stop: int, queries: Queries, deepest: int
) -> tuple[Hits, npt.NDArray[np.int32]]:
    num_items = scores.shape[1]
    scores[queries.seen.block(start, stop)] = -np.inf
    answers, values = topk.top_k(scores, deepest)
    query, item = queries.relevant.block(start, stop)
    score, last = scores[query, item], values[:, -1]
    reached = (score >= last[query]) & (score > -np.inf)
    query, item, score = query[reached], item[reached], score[reached]
    above, tied = _places(values, query, score)
    # If the top k end within a group of ties, the group's size is counted among all scores.
    if values.shape[1] < num_items:
        open_ended = score == last[query]
        rows, position = np.unique(query[open_ended], return_inverse=True)
        tied[open_ended] = np.count_nonzero(scores[rows] == last[rows, np.newaxis], axis=1)[position]
    order = np.lexsort((above, query))
    top = np.where(values[:, :TOP] > -np.inf, answers[:, :TOP], -1).astype(np.int32)
    return Hits(query[order] + start, above[order], tied[order], item[order]), top


def _places(
    values: npt.NDArray[np.float32], query: npt.NDArray[np.int64], score: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts the results of a query with a higher score, and those with the same score."""
    above, tied = np.empty(len(query), np.int64), np.empty(len(query), np.int64)
    step = max(1, _BLOCK_BYTES // (8 * values.shape[1]))
    for first in range(0, len(query), step):
        part = slice(first, first + step)
        answers, own = values[query[part]], score[part, np.newaxis]
        above[part] = np.count_nonzero(answers > own, axis=1)
        tied[part] = np.count_nonzero(answers == own, axis=1)
    return above, tied
