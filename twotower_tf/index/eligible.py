"""Items that any query may get (`Eligible`), and items that single queries may not get (`Ineligible`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.index.item_vectors import ItemVectors

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class Eligible:
    """The items that pass a filter.

    Attributes:
        mask: [num_items] bool.
        rows: [num_allowed] int64, ascending.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.rows: Rows = np.flatnonzero(mask)

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, items: ItemVectors) -> Floats:
        """Returns the vectors of the allowed items, [num_allowed, vector_dim] float32, gathered once."""
        if len(self) == len(items):
            return items.vectors
        held = self.__dict__.get("_gathered")
        if held is None or held[0] is not items:
            held = self.__dict__["_gathered"] = (items, items.vectors[self.rows])
        table: Floats = held[1]
        return table

    def places(self, rows: Rows) -> Rows:
        """Returns the places of items, by their rows, among the allowed ones; -1 for an item that is not allowed."""
        if not len(self.rows):
            return np.full(len(rows), -1, np.int64)
        found = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[found] == rows, found, -1)


class Ineligible:
    """Items that single queries may not have, as ranges of one array.

    Attributes:
        offsets: [num_queries + 1] int64.
        rows: [offsets[-1]] int64; those of query q are `rows[offsets[q] : offsets[q + 1]]`, ascending and distinct.
    """

    def __init__(self, queries: Rows, rows: Rows, num_queries: int) -> None:
        """Excludes item `rows[i]` from the answers to query `queries[i]`, in any order and as often as it comes.

        Args:
            queries: [num_pairs] integers in [0, num_queries).
            rows: [num_pairs] integers; negative ones stand for unknown items and are passed over.
            num_queries: of the search to come.
        """
        known = rows >= 0
        span = int(rows.max(initial=0)) + 1
        keys = np.unique(queries[known].astype(np.int64) * span + rows[known])
        queries, self.rows = np.divmod(keys, span)
        self.offsets: Rows = np.searchsorted(queries, np.arange(num_queries + 1))

    @classmethod
    def of(cls, lists: Sequence[Iterable[str]], items: ItemVectors) -> Ineligible:
        """Reads lists of item ids, one per query; unknown ids are passed over."""
        found = [[-1 if (row := items.row(item)) is None else row for item in listed] for listed in lists]
        counts = np.array([len(rows) for rows in found], np.int64)
        rows = np.array([row for rows in found for row in rows], np.int64)
        return cls(ragged.to_rows(counts), rows, len(lists))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Rows:
        """[num_queries] how many items each query may not have."""
        return np.diff(self.offsets)

    @cached_property
    def queries(self) -> Rows:
        """[offsets[-1]] the query that each of `rows` belongs to."""
        return ragged.to_rows(self.counts)

    def take(self, queries: Rows | slice) -> Ineligible:
        """Returns the part of some of the queries, numbered from 0."""
        chosen = np.arange(len(self))[queries]
        counts = self.counts[chosen]
        return self._part(counts, self.rows[ragged.to_places(self.offsets[chosen], counts)])

    def within(self, allowed: Eligible) -> Ineligible:
        """Returns the part of the items that are allowed at all, by their places among those."""
        places = allowed.places(self.rows)
        kept = places >= 0
        return self._part(np.bincount(self.queries[kept], minlength=len(self)), places[kept])

    @classmethod
    def _part(cls, counts: Rows, rows: Rows) -> Ineligible:
        part = cls.__new__(cls)
        part.rows, part.offsets = rows, ragged.to_offsets(counts)
        return part

    def hits(self, rows: npt.NDArray[np.int32]) -> Mask:
        """Returns which of each query's `rows` are ineligible for it, [num_queries, width] bool."""
        span = int(max(rows.max(initial=0), self.rows.max(initial=0))) + 1
        held = self.queries * span + self.rows
        if not len(held):
            return np.zeros(rows.shape, np.bool_)
        requested = np.arange(len(self))[:, None] * span + rows
        found = np.minimum(np.searchsorted(held, requested), len(held) - 1)
        hit: Mask = held[found] == requested
        return hit
