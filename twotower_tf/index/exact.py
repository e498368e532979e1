"""Exact search: every item is scored. The measure for other indexes, and the right one for small catalogues."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.config import IndexConfig
from twotower_tf.index import index_files, topk
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.index_files import Memory, Stored
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.index.searcher import Answers, Neighbours, check_queries

_BLOCK_BYTES = 32 << 20  # of scores held by one thread
SCORE_BYTES = 64 << 20  # that a thread takes for blocks of scores and the masks next to them
_CACHED_BYTES = 4 << 20  # of these what a processor's caches hold: a block is gone over several times
_TOGETHER = 64  # queries of a block, where memory allows: fewer make the product slow
_RESCORED_BYTES = 1 << 19  # of candidates' vectors that are re-scored at a time
_CROWDED = 32  # times k candidates of a query, beyond which a bound is of no use

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class ExactSearcher:
    """Scores every item, in blocks of queries.

    The scores are dot products in double precision rounded once to float32. The rounding hides the order of
    summation. So an answer depends neither on the query's batch nor on threads or the processor, and equal vectors have
    equal scores, except for one score in some ten million, which lies on the edge between two numbers.
    """

    kind = "exact"
    exact = True
    vectors_file = "vectors.npy"
    library = ""
    share_threads = False
    vector_copies = 1

    def __init__(self, items: ItemVectors, threads: int = 0) -> None:
        """Keeps the items; nothing is built. At most `threads` answer one call; 0 is one per core."""
        self.items = items
        self.threads = topk.available_threads(threads)
        # Bounds the rounding of a float32 dot product of two unit vectors (Higham, section 3.1), on both sides.
        self._slack = 2.0 * items.dim * float(np.finfo(np.float32).eps)

    def search(self, queries: npt.ArrayLike, k: int) -> Neighbours:
        """See `Searcher.search`."""
        table = check_queries(queries, k, self.items.dim)
        rows, scores = self._best(table, min(k, len(self.items)), self.items.vectors, None)
        return Neighbours(rows, scores, self.items)

    def best_scores(self, queries: npt.ArrayLike, k: int, reached: Floats) -> Floats:
        """Computes the scores of `search`, with a quarter of its work after an approximate search.

        Args:
            queries: [num_queries, vector_dim] float32, unit length.
            k: at most the number of items.
            reached: [num_queries] float32, a score that k items reach: only such are looked at closely.

        Returns:
            [num_queries, k] float32, descending.
        """
        table, vectors = check_queries(queries, k, self.items.dim), self.items.vectors
        bounds = (reached - np.float32(self._slack))[:, None]
        step = max(1, _BLOCK_BYTES // (4 * max(1, len(table))))
        found: list[npt.NDArray[np.intp]] = []
        left = _CROWDED * k * len(table)
        space = np.empty((len(table), min(step, len(vectors))), np.float32)
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            rough = np.matmul(table, part.T, out=space[:, : len(part)])
            places = np.flatnonzero(rough >= bounds)
            left -= len(places)
            if left < 0:  # the approximate search was poor: its bound leaves too many to hold
                return self.search(table, k).scores
            found.append(places + places // len(part) * (len(vectors) - len(part)) + start)
        columns, there = topk.list_marked(np.sort(np.concatenate(found)), len(table), len(vectors))
        if columns.shape[1] < k or not there[:, k - 1].all():  # so many do not reach it
            return self.search(table, k).scores
        scores = np.where(there, _rescored(table, vectors, columns), -np.inf)
        return -np.sort(-scores, axis=1)[:, :k]

    @property
    def stated_k(self) -> int:
        """See `Searcher.stated_k`."""
        return 1

    def fetches(self, passing: int) -> Sequence[int]:
        """See `Searcher.fetches`: every item is scored."""
        return ()

    def scan(self, queries: npt.ArrayLike, k: int, excluded: Ineligible, allowed: Eligible | None = None) -> Answers:
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
        self, queries: Floats, k: int, vectors: Floats, excluded: Ineligible | None
    ) -> tuple[npt.NDArray[np.int32], Floats]:
        """Finds the k best rows of `vectors` and their scores, best first; excluded ones are last, with score -inf."""
        block = min(len(queries), _count_queries(len(vectors))) or 1
        starts = range(0, len(queries), block)
        threads = min(self.threads, len(starts))
        table = vectors.T
        if len(starts) > 1 and table.nbytes <= _BLOCK_BYTES:
            table = np.ascontiguousarray(table)  # each product copies the table: faster where it lies like this
        rows = np.empty((len(queries), k), np.int32)
        scores = np.empty((len(queries), k), np.float32)

        def answer(thread: int) -> None:
            space = np.empty((block, len(vectors)), np.float32)
            for start in starts[thread::threads]:
                part = slice(start, start + block)
                gone = excluded.take(part) if excluded is not None else None
                held = space[: len(queries[part])]
                rows[part], scores[part] = self._best_of_block(queries[part], k, vectors, table, gone, held)

        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(answer, range(threads)))
        elif threads:
            answer(0)
        return rows, scores

    def _best_of_block(
        self, queries: Floats, k: int, vectors: Floats, table: Floats, excluded: Ineligible | None, space: Floats
    ) -> tuple[npt.NDArray[np.int32], Floats]:
        """Finds candidates by a product in single precision, held in `space` [queries, vectors], then scores them."""
        rough = np.matmul(queries, table, out=space)
        if excluded is not None:
            rough[excluded.queries, excluded.rows] = -np.inf
        columns, there = topk.find_candidates(rough, k, self._slack)
        scores = _rescored(queries, vectors, columns)
        if excluded is not None:
            scores[np.isneginf(np.take_along_axis(rough, columns, axis=1))] = -np.inf
        return topk.sort_candidates(columns, scores, k, there)

    def description(self) -> dict[str, Any]:
        """See `Searcher.description`."""
        return {**index_files.describe(self.kind, self.items), "parameters": {}, "recall": {"measured": 1.0}}

    def save(self, directory: Path) -> None:
        """Writes item_ids and vectors.npy, then index.json."""
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / self.vectors_file, self.items.vectors)
        index_files.finish(directory, self.items, self.description())

    @classmethod
    def available(cls, size: int) -> bool:
        """See `Backend.available`."""
        return True

    @classmethod
    def build(cls, items: ItemVectors, index: IndexConfig, queries: Floats, threads: int = 0) -> ExactSearcher:
        """See `Backend.build`."""
        return cls(items, threads)

    @classmethod
    def update(
        cls, old: Stored, items: ItemVectors, origin: Rows, index: IndexConfig, queries: Floats, threads: int = 0
    ) -> ExactSearcher:
        """See `Backend.update`."""
        return cls(items, threads)

    @classmethod
    def memory(cls, size: int, dim: int, threads: int) -> Memory:
        """See `Backend.memory`."""
        held = size * (4 * dim + index_files.ID_BYTES)
        return Memory(build=held, answer=held + threads * SCORE_BYTES)

    @classmethod
    def read(cls, directory: Path, document: dict[str, Any], threads: int = 0) -> ExactSearcher:
        """See `Backend.read`."""
        vectors = index_files.load_array(directory / cls.vectors_file)
        return cls(index_files.restore(directory, vectors), threads)


def _count_queries(num_vectors: int) -> int:
    """Returns how many queries are answered at a time."""
    each = 4 * num_vectors  # bytes of scores
    return max(1, min(_BLOCK_BYTES // each, max(_TOGETHER, _CACHED_BYTES // each)))


def _rescored(queries: Floats, vectors: Floats, columns: npt.NDArray[np.int32]) -> Floats:
    """Computes the scores [num_queries, width] of rows `columns` [num_queries, width] of the vectors."""
    width, dim = columns.shape[1], vectors.shape[1]
    step = max(1, min(len(queries), _RESCORED_BYTES // max(1, 8 * width * dim)))
    taken, held = np.empty((step, width, dim), np.float32), np.empty((step, width, dim))
    products = np.empty((step, width, 1))
    asked = queries.astype(np.float64)[:, :, None]
    scores = np.empty(columns.shape, np.float32)
    for start in range(0, len(queries), step):
        part = columns[start : start + step]
        count = len(part)
        np.take(vectors, part, axis=0, out=taken[:count], mode="clip")  # other modes copy once more
        np.copyto(held[:count], taken[:count])
        np.matmul(held[:count], asked[start : start + step], out=products[:count])
        scores[start : start + step] = products[:count, :, 0]
    return scores
