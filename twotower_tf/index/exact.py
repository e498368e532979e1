"""Exact search: every item is scored. The measure for other indexes, and the right one for small catalogues."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.index import files, topk
from twotower_tf.index.allowed import Allowed, Excluded
from twotower_tf.index.items import ItemVectors
from twotower_tf.index.searcher import Answers, Neighbours, check_queries

_BLOCK_BYTES = 32 << 20  # of scores held by one thread
_RESCORED = 1 << 14  # candidates re-scored at a time

Floats = npt.NDArray[np.float32]


class ExactSearcher:
    """Scores every item, in blocks of queries.

    The scores are dot products in double precision rounded once to float32. So an answer depends neither on the batch
    its query came in, nor on threads, nor on the processor, and two equal vectors have equal scores.
    """

    kind = "exact"

    def __init__(self, items: ItemVectors, threads: int = 0) -> None:
        """Keeps the items; nothing is built.

        Args:
            items: what is searched.
            threads: that answer one call at most; 0 is one per core.
        """
        self.items = items
        self.threads = topk.available_threads(threads)
        # Bounds the rounding of a float32 dot product of two unit vectors (Higham, section 3.1), on both sides.
        self._slack = 2.0 * items.dim * float(np.finfo(np.float32).eps)

    def search(self, queries: npt.ArrayLike, k: int) -> Neighbours:
        """See `Searcher.search`."""
        table = check_queries(queries, k, self.items.dim)
        rows, scores = self._best(table, min(k, len(self.items)), self.items.vectors, None)
        return Neighbours(rows, scores, self.items)

    def effort(self, k: int) -> float:
        """See `Searcher.effort`."""
        return float(len(self.items))

    def scan(self, queries: npt.ArrayLike, k: int, excluded: Excluded, allowed: Allowed | None = None) -> Answers:
        """See `Searcher.scan`."""
        table = check_queries(queries, k, self.items.dim)
        if allowed is None:
            rows, scores = self._best(table, min(k, len(self.items)), self.items.vectors, excluded)
        elif len(allowed):
            vectors, places = allowed.vectors(self.items), excluded.within(allowed)
            rows, scores = self._best(table, min(k, len(allowed)), vectors, places)
            rows = allowed.rows[rows].astype(np.int32)
        else:
            rows, scores = np.empty((len(table), 0), np.int32), np.empty((len(table), 0), np.float32)
        return Answers.first(k, scores > -np.inf, rows, scores, self.items)

    def _best(
        self, queries: Floats, k: int, vectors: Floats, excluded: Excluded | None
    ) -> tuple[npt.NDArray[np.int32], Floats]:
        """Rows of `vectors` and their scores [num_queries, k], best first; at the end excluded ones, of score -inf."""
        block = max(1, _BLOCK_BYTES // (4 * len(vectors)))
        starts = range(0, len(queries), block)
        rows = np.empty((len(queries), k), np.int32)
        scores = np.empty((len(queries), k), np.float32)

        def answer(start: int) -> None:
            place = slice(start, start + block)
            gone = excluded.take(place) if excluded is not None else None
            rows[place], scores[place] = self._best_of_block(queries[place], k, vectors, gone)

        if len(starts) > 1 and self.threads > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(answer, starts))
        else:
            for start in starts:
                answer(start)
        return rows, scores

    def _best_of_block(
        self, queries: Floats, k: int, vectors: Floats, excluded: Excluded | None
    ) -> tuple[npt.NDArray[np.int32], Floats]:
        rough = queries @ vectors.T
        if excluded is not None:
            rough[excluded.queries, excluded.rows] = -np.inf
        number, row = topk.candidates(rough, k, self._slack)
        scores = np.empty(len(row), np.float32)
        for start in range(0, len(row), _RESCORED):
            part = slice(start, start + _RESCORED)
            asked, held = queries[number[part]].astype(np.float64), vectors[row[part]].astype(np.float64)
            scores[part] = np.einsum("ij,ij->i", asked, held)
        if excluded is not None:
            scores[np.isneginf(rough[number, row])] = -np.inf
        return topk.arrange(number, row, scores, len(queries), k)

    def description(self) -> dict[str, Any]:
        """See `Searcher.description`."""
        return {**files.describe(self.kind, self.items), "parameters": {}, "recall": {"measured": 1.0}}

    def save(self, directory: Path) -> None:
        """Writes item_ids and vectors.npy, then index.json."""
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / files.VECTORS, self.items.vectors)
        files.finish(directory, self.items, self.description())

    @classmethod
    def read(cls, directory: Path, threads: int = 0) -> ExactSearcher:
        """Reads what `save` wrote; `load` has checked the files."""
        vectors = np.load(directory / files.VECTORS, allow_pickle=False)
        return cls(files.restore(directory, vectors), threads)
