"""The evaluation protocol: queries with their relevant items and the items excluded from their ranking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.config import EvaluationConfig

if TYPE_CHECKING:
    from twotower_tf.prepare.prepared import Prepared

_CHUNK = 1 << 22  # positions of the seen sequence compared at a time

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ItemLists:
    """One list of item rows per query: compressed sparse rows over an array that several queries may share.

    Attributes:
        starts: [num_queries] int64, start of each list in `values`.
        ends: [num_queries] int64, end of each list (exclusive).
        values: int32 item rows; may be a memory map.
    """

    starts: Ints
    ends: Ints
    values: Rows

    @classmethod
    def from_pairs(cls, queries: Ints, items: npt.NDArray[np.integer], num_queries: int) -> ItemLists:
        """Builds lists from (query, item) pairs that are sorted by query."""
        indptr = np.searchsorted(queries, np.arange(num_queries + 1))
        return cls(indptr[:-1], indptr[1:], items.astype(np.int32))

    @classmethod
    def empty(cls, num_queries: int) -> ItemLists:
        """Builds an empty list for every query."""
        nothing = np.zeros(num_queries, np.int64)
        return cls(nothing, nothing, np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def counts(self) -> Ints:
        """The length of every list, [num_queries] int64."""
        return self.ends - self.starts

    def block(self, start: int, stop: int) -> tuple[Ints, Rows]:
        """Returns the lists of queries start to stop as pairs of query, counted from `start`, and item row."""
        first, counts = self.starts[start:stop], self.counts[start:stop]
        return ragged.to_rows(counts), np.asarray(self.values[ragged.to_places(first, counts)])


@dataclass(frozen=True)
class Queries:
    """The queries of one evaluation.

    Attributes:
        example_rows: [num_queries] int64, row of the split whose features give the query's user vector.
        user_rows: [num_queries] int64.
        relevant: relevant items; distinct, ascending, none of them seen.
        seen: items excluded from the ranking.
        all_seen: number of queries dropped because the user had seen all held-out items.
    """

    example_rows: Ints
    user_rows: Ints
    relevant: ItemLists
    seen: ItemLists
    all_seen: int = 0

    def __len__(self) -> int:
        return len(self.example_rows)


def build_queries(prepared: Prepared, evaluation: EvaluationConfig, split: str) -> Queries:
    """Builds the queries of a split.

    With `query="user"` there is one query per user with a positive, as of the first positive of the split, whose
    relevant items are all distinct positives of the user; with `query="event"` one query per positive row, whose
    relevant item is its own. With `exclude_seen` the user's training positives (on "test" also the validation
    positives) are neither relevant nor ranked.
    """
    columns = prepared.columns(split, ["user_row", "item_row", "label"])
    rows = np.flatnonzero(columns["label"] == 1)
    users = columns["user_row"][rows].astype(np.int64)
    pairs = users * prepared.num_items + columns["item_row"][rows]
    fresh = np.ones(len(rows), np.bool_)
    which = "seen" if split == "test" else "train"
    if evaluation.exclude_seen:
        fresh = ~_occur(pairs, prepared.sequence(which), prepared.sequence_users(which), prepared.num_items)
    if evaluation.query == "event":
        example_rows, user_rows = rows[fresh], users[fresh]
        count = len(example_rows)
        relevant = ItemLists.from_pairs(np.arange(count), columns["item_row"][rows][fresh], count)
        dropped = len(rows) - count
    else:
        all_users, first = np.unique(users, return_index=True)
        user, item = np.divmod(np.unique(pairs[fresh]), prepared.num_items)
        user_rows = np.unique(user)
        example_rows = rows[first[np.isin(all_users, user_rows)]]
        relevant = ItemLists.from_pairs(np.searchsorted(user_rows, user), item, len(user_rows))
        dropped = len(all_users) - len(user_rows)
    seen = ItemLists.empty(len(example_rows))
    if evaluation.exclude_seen:
        indptr = prepared.sequence_users(which)
        seen = ItemLists(indptr[user_rows], indptr[user_rows + 1], prepared.sequence(which))
    return Queries(example_rows.astype(np.int64), user_rows, relevant, seen, dropped)


def _occur(pairs: Ints, sequence: Rows, indptr: Ints, num_items: int) -> npt.NDArray[np.bool_]:
    """Returns which (user, item) pairs occur in a sequence of items grouped by user."""
    found = np.zeros(len(pairs), np.bool_)
    for start in range(0, len(sequence), _CHUNK):
        part = np.asarray(sequence[start : start + _CHUNK], np.int64)
        users = np.searchsorted(indptr, np.arange(start, start + len(part)), side="right") - 1
        found |= np.isin(pairs, users * num_items + part)
    return found
