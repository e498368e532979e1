"""Hard negatives from the log: items that a user was shown and did not take."""

from __future__ import annotations

import numpy as np

from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import PositivesBatch


class RejectionSampler:
    """Draws uniformly from the items that the row's user rejected in training and never took."""

    def __init__(self, positives: Pairs, users: Ints, items: Ints) -> None:
        """Collects the rejected items of each user.

        Args:
            positives: training positives of every user.
            users: `[rejections]` user rows.
            items: `[rejections]` catalogue rows.
        """
        self._pools = Pairs(users, items, len(positives.counts), positives.num_items).without(positives)

    def available(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`."""
        return self._pools.counts[rows.users] > 0

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """See `RowSampler`."""
        starts, counts = self._pools.starts[rows.users], self._pools.counts[rows.users]
        places = starts[:, np.newaxis] + rng.integers(0, counts[:, np.newaxis], (len(rows), draws))
        drawn: Items = self._pools.items[places]
        return drawn

    def drawable(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`: what the rows' users rejected."""
        met = np.zeros(len(self._pools.counts), bool)
        met[rows.users] = True
        rejected = np.zeros(self._pools.num_items, bool)
        rejected[self._pools.items[np.repeat(met, self._pools.counts)]] = True
        return rejected
