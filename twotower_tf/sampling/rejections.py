"""Draws hard negatives from the log: items that a user was shown and did not take."""

from __future__ import annotations

from twotower_tf.sampling.pairs import Ints, Pairs
from twotower_tf.sampling.row_sampler import PoolSampler, PositivesBatch


class RejectionSampler(PoolSampler):
    """Draws uniformly from the items that the row's user rejected in training and never took."""

    def __init__(self, positives: Pairs, users: Ints, items: Ints) -> None:
        """Collects the rejected items of each user from user and catalogue rows, `[rejections]` each."""
        rejected = Pairs(users, items, len(positives.counts), positives.num_items).without(positives)
        super().__init__(rejected.items, positives.num_items)
        self._starts = rejected.starts

    def find_pools(self, rows: PositivesBatch) -> tuple[Ints, Ints]:
        """See `PoolSampler`."""
        return self._starts[rows.users], self._starts[rows.users + 1]
