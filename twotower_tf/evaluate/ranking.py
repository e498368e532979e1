"""Exact ranking of the whole catalogue for every query, in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower_tf.errors import DataError
from twotower_tf.evaluate import metrics
from twotower_tf.evaluate.metrics import Floats, Hits, Mask
from twotower_tf.evaluate.protocol import ItemLists, Queries
from twotower_tf.index import topk
from twotower_tf.progress import Progress, silent

TOP = 10  # answers counted as shown

_BLOCK_BYTES = 32 << 20  # of scores held by one thread

Scorer = Callable[[int, int], npt.NDArray[np.float32]]
"""(start, stop) -> scores [stop - start, num_items] float32 of these queries, which the ranking may overwrite."""


@dataclass(frozen=True)
class Ranking:
    """What a ranking found.

    Attributes:
        ks: cut-offs of the metrics.
        relevant: the items that were to be found.
        hits: where they were.
        shown: [num_items] int64, how many queries have the item among their first 10.
    """

    ks: tuple[int, ...]
    relevant: ItemLists
    hits: Hits
    shown: npt.NDArray[np.int64]

    def per_query(self, item_mask: Mask | None = None) -> dict[str, Floats]:
        """Metrics of every query, counting as relevant only the marked items (of all ranked); see `metrics`."""
        if item_mask is None:
            return metrics.per_query(self.hits, self.relevant.counts, self.ks)
        return metrics.per_query(self.hits.of_items(item_mask), self.relevant_of(item_mask), self.ks)

    def mean(self, item_mask: Mask | None = None, query_mask: Mask | None = None) -> dict[str, float]:
        """Average metrics over the marked queries that have a marked item to find; empty where none has."""
        values = self.per_query(item_mask)
        if query_mask is not None:
            values = {name: column[query_mask] for name, column in values.items()}
        return metrics.mean(values)

    def relevant_of(self, item_mask: Mask) -> npt.NDArray[np.int64]:
        """How many marked items each query has to find."""
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
    """Ranks all items for every query by dot product; among equal scores the lower item row comes first.

    Args:
        query_vectors: [num_queries, vector_dim] float32.
        item_vectors: [num_items, vector_dim] float32.
        queries: what to find and what to leave out.
        ks: cut-offs, which may exceed the catalogue.
        block: queries ranked at a time by each thread; 0 chooses it so that a block's scores take 32 MB.
        threads: at most; 0 is one per core.
        progress: told the queries done.

    Raises:
        DataError: where a vector holds NaN or infinity.
    """
    for name, vectors in (("user", query_vectors), ("item", item_vectors)):
        if not np.isfinite(vectors).all():
            broken = int((~np.isfinite(vectors).all(axis=1)).sum())
            raise DataError(
                f"{broken} of {len(vectors)} {name} vectors hold NaN or infinity; the model diverged: "
                "lower train.initial_lr and train again"
            )
    items = item_vectors.T
    return rank_scores(
        lambda start, stop: query_vectors[start:stop] @ items,
        item_vectors.shape[0],
        queries,
        ks,
        block=block,
        threads=threads,
        progress=progress,
    )


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
    """Ranks all items by any score; see `rank`."""
    total, deepest = len(queries), max(*ks, TOP)
    size = block or max(1, _BLOCK_BYTES // (4 * num_items))

    def answer(start: int) -> tuple[Hits, npt.NDArray[np.int64]]:
        stop = min(start + size, total)
        return _rank_block(scorer(start, stop), start, stop, queries, deepest)

    parts: list[Hits] = []
    shown = np.zeros(num_items, np.int64)
    progress(stage, 0, total)
    with ThreadPoolExecutor(topk.available_threads(threads)) as pool:
        for number, (hits, block_shown) in enumerate(pool.map(answer, range(0, total, size))):
            parts.append(hits)
            shown += block_shown
            progress(stage, min((number + 1) * size, total), total)
    nothing = Hits(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32))
    joined = [
        np.concatenate([getattr(part, name) for part in (nothing, *parts)]) for name in ("queries", "places", "items")
    ]
    return Ranking(tuple(ks), queries.relevant, Hits(*joined), shown)


def _rank_block(
    scores: npt.NDArray[np.float32], start: int, stop: int, queries: Queries, deepest: int
) -> tuple[Hits, npt.NDArray[np.int64]]:
    num_items = scores.shape[1]
    scores[queries.seen.block(start, stop)] = -np.inf
    answers, values = topk.top_k(scores, deepest)
    valid = values > -np.inf
    relevant_query, relevant_item = queries.relevant.block(start, stop)
    wanted = relevant_query * num_items + relevant_item  # ascending: lists are
    came = np.arange(len(scores))[:, np.newaxis] * num_items + answers
    position = np.searchsorted(wanted, came)
    known = np.append(wanted, -1)[position] == came
    query, place = np.nonzero(known & valid)
    shown = np.bincount(answers[:, :TOP][valid[:, :TOP]], minlength=num_items)
    return Hits(query + start, place, answers[query, place]), shown
