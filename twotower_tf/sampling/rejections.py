"""Hard negatives from the log: what a user was shown and did not take."""

from __future__ import annotations

import numpy as np

from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import Rows


class RejectionSampler:
    """Draws from what the row's user rejected in training and never took, every item alike: p(j) = 1 / as many."""

    def __init__(self, positives: Pairs, users: Ints, items: Ints) -> None:
        """Takes the log's rejections.

        Args:
            positives: of every user.
            users: `[rejections]` user rows.
            items: `[rejections]` catalogue rows.
        """
        self._pools = Pairs(users, items, len(positives.counts), positives.num_items).without(positives)

    def available(self, rows: Rows) -> Mask:
        """See `RowSampler`."""
        return self._pools.counts[rows.users] > 0

    def draw(self, rng: np.random.Generator, rows: Rows, draws: int) -> Items:
        """See `RowSampler`."""
        starts, counts = self._pools.starts[rows.users], self._pools.counts[rows.users]
        places = starts[:, np.newaxis] + rng.integers(0, counts[:, np.newaxis], (len(rows), draws))
        drawn: Items = self._pools.items[places]
        return drawn
