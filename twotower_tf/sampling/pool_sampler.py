"""Hard negatives from pools of items that the log gives to each row."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from twotower_tf.features.covered_places import merge_ranges
from twotower_tf.sampling.pairs import Ints, Items, Mask
from twotower_tf.sampling.row_sampler import PositivesBatch


class PoolSampler(ABC):
    """Draws uniformly from the pool of a row: a range of an array of items."""

    def __init__(self, items: Ints, num_items: int) -> None:
        """Stores the array `[pooled]` of catalogue rows, and the number of items of the catalogue."""
        self._items, self._num_items = items.astype(np.int32), num_items

    @abstractmethod
    def find_pools(self, rows: PositivesBatch) -> tuple[Ints, Ints]:
        """Returns the start and the end of each row's pool in the array, `[batch]` each."""

    def available(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`."""
        starts, ends = self.find_pools(rows)
        return ends > starts

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """See `RowSampler`."""
        starts, ends = (each[:, np.newaxis] for each in self.find_pools(rows))
        drawn: Items = self._items[starts + rng.integers(0, ends - starts, (len(rows), draws))]
        return drawn

    def drawable(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`: the items of the rows' pools."""
        pooled = merge_ranges(*self.find_pools(rows), len(self._items))
        drawable = np.zeros(self._num_items, bool)
        drawable[self._items[pooled]] = True
        return drawable
