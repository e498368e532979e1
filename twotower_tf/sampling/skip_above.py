"""Hard negatives from the log: items shown above the positive in the same list and skipped."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.features.covered_places import merge_ranges
from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import PositivesBatch


class SkipAboveSampler:
    """Draws uniformly from the items that the user skipped above the positive.

    Joachims, "Optimizing Search Engines using Clickthrough Data" (KDD 2002), section 3. An item that occurs several
    times in a list counts once, at its highest position; a training positive of the user is never drawn.

    Skipped rows are sorted by list and position, so those above a positive are a contiguous range.
    """

    def __init__(
        self, positives: Pairs, users: Ints, items: Ints, label: Ints, lists: Ints, position: npt.NDArray[np.floating]
    ) -> None:
        """Sorts the log by list and position.

        Args:
            positives: training positives of every user.
            users: `[rows]` user rows of the training split.
            items: `[rows]` catalogue rows.
            label: `[rows]`, 1 for positives.
            lists: `[rows]` number of the list, negative for none.
            position: `[rows]` position in the list, growing downwards; NaN for none.
        """
        known = (lists >= 0) & np.isfinite(position)
        _, shown = np.unique(np.where(known, lists, -1), return_inverse=True)
        _, shown = np.unique(shown * np.int64(len(positives.counts)) + users, return_inverse=True)
        _, place = np.unique(np.where(known, position, np.inf), return_inverse=True)
        places = int(place.max(initial=0)) + 1
        passed = np.flatnonzero(known & (label != 1) & ~positives.contain(users, items))
        keys = shown * np.int64(positives.num_items) + items
        passed = passed[np.lexsort((place[passed], keys[passed]))]
        highest = np.ones(len(passed), bool)
        highest[1:] = keys[passed[1:]] != keys[passed[:-1]]
        passed = passed[highest]
        at = shown * places + place
        order = passed[np.argsort(at[passed], kind="stable")]
        self._items = items[order].astype(np.int32)
        self._num_items = positives.num_items
        self._starts = np.searchsorted(at[order], shown * places)
        self._ends = np.where(known, np.searchsorted(at[order], at), self._starts)

    def _counts(self, rows: PositivesBatch) -> npt.NDArray[np.int64]:
        return self._ends[rows.index] - self._starts[rows.index]

    def available(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`."""
        return self._counts(rows) > 0

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """See `RowSampler`."""
        places = rng.integers(0, self._counts(rows)[:, np.newaxis], (len(rows), draws))
        drawn: Items = self._items[self._starts[rows.index][:, np.newaxis] + places]
        return drawn

    def drawable(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`: what stood above a positive."""
        above = merge_ranges(self._starts[rows.index], self._ends[rows.index], len(self._items))
        passed = np.zeros(self._num_items, bool)
        passed[self._items[above]] = True
        return passed
