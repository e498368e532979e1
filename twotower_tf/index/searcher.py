"""The contract that every index implements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.errors import DataError
from twotower_tf.index.eligible import Eligible, Ineligible, Mask
from twotower_tf.index.item_vectors import Ids, ItemVectors


@dataclass(frozen=True)
class Neighbours:
    """The nearest items of each query, nearest first.

    Attributes:
        rows: [num_queries, k'] int32, rows of the index, distinct within a query.
        scores: [num_queries, k'] float32, cosine similarity in [-1, 1], descending; equal scores by row.
        items: what was searched.
    """

    rows: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    items: ItemVectors

    @cached_property
    def item_ids(self) -> Ids:
        """Ids of `rows`, object (text) of their shape."""
        return self.items.ids[self.rows]


@dataclass(frozen=True)
class Answers(Neighbours):
    """The nearest items that each query may have, nearest first; not every query has equally many.

    Attributes:
        offsets: [num_queries + 1] int64; the answers to query q are `rows[offsets[q] : offsets[q + 1]]`, and so are
            their scores: `rows` and `scores` are [offsets[-1]].
    """

    offsets: npt.NDArray[np.int64]

    @classmethod
    def first(
        cls, k: int, kept: Mask, rows: npt.NDArray[np.int32], scores: npt.NDArray[np.float32], items: ItemVectors
    ) -> Answers:
        """Selects the first k of each row of a table [num_queries, width] that are kept."""
        taken = kept & (np.cumsum(kept, axis=1, dtype=np.int32) <= k)
        return cls(rows[taken], scores[taken], items, ragged.to_offsets(np.count_nonzero(taken, axis=1)))


class Searcher(Protocol):
    """Finds the items whose vectors have the largest cosine with a query."""

    @property
    def kind(self) -> str:
        """The name of its backend: "exact", "scann" or another registered one."""

    @property
    def items(self) -> ItemVectors:
        """The ids and vectors searched, in row order."""

    def search(self, queries: npt.ArrayLike, k: int) -> Neighbours:
        """Finds k items for every query.

        Args:
            queries: [num_queries, vector_dim] float32, unit length.
            k: at least 1.

        Returns:
            k' = min(k, number of items) distinct items per query, never padding.

        Raises:
            DataError: for queries of another dimension or with NaN or infinity, or k below 1.
        """

    @property
    def stated_k(self) -> int:
        """The number of answers whose recall is stated."""

    def fetches(self, passing: int) -> Sequence[int]:
        """Numbers of items, ascending, that are fetched with the stated recall for less than scoring `passing` items.

        For more, only `scan` has that recall.
        """

    def scan(self, queries: npt.ArrayLike, k: int, excluded: Ineligible, allowed: Eligible | None = None) -> Answers:
        """Finds k items for every query among those it may have, by scoring all of those: exact, whatever the kind.

        Args:
            queries: [num_queries, vector_dim] float32, unit length.
            k: at least 1.
            excluded: items that single queries may not have.
            allowed: the items that any query may have; by default all.

        Returns:
            k items per query, all that it may have where those are fewer.

        Raises:
            DataError: as `search` says.
        """

    def description(self) -> dict[str, Any]:
        """Returns the manifest's description: kind, size, dim, fingerprint, parameters, recall. Strict JSON."""

    def save(self, directory: Path) -> None:
        """Writes the index into `directory`, which may then be moved; `load` reads it."""


def check_queries(queries: npt.ArrayLike, k: int, dim: int) -> npt.NDArray[np.float32]:
    """Checks the arguments of a `search` and returns the queries as a C-ordered float32 table.

    Raises:
        DataError: as `Searcher.search` says.
    """
    table = np.ascontiguousarray(queries, dtype=np.float32)
    if table.ndim != 2:
        raise DataError(f"queries: invalid shape {table.shape} (expected [queries, {dim}])")
    if table.shape[1] != dim:
        raise DataError(
            f"queries: invalid shape {table.shape} (expected [queries, {dim}], the index's dimensions); "
            "the user tower and the index are of different models"
        )
    if k < 1:
        raise DataError(f"k: invalid value {k} (expected at least 1)")
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise DataError(f"queries: invalid vector of query {row} (expected finite numbers)")
    return table
