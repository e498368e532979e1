"""Draws hard negatives from the log: items shown above the positive in the same list and skipped."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.sampling.pairs import Ints, Pairs
from twotower_tf.sampling.row_sampler import PoolSampler, PositivesBatch


class SkipAboveSampler(PoolSampler):
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
        super().__init__(items[order], positives.num_items)
        self._starts = np.searchsorted(at[order], shown * places)
        self._ends = np.where(known, np.searchsorted(at[order], at), self._starts)

    def find_pools(self, rows: PositivesBatch) -> tuple[Ints, Ints]:
        """See `PoolSampler`."""
        return self._starts[rows.index], self._ends[rows.index]
