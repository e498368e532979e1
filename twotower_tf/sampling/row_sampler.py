"""Declares the protocol of samplers that draw negatives per row, and draws from pools or by rejection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twotower_tf.ragged import merge_ranges
from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs

Floats = npt.NDArray[np.float64]

_ROUNDS = 30


@dataclass(frozen=True)
class PositivesBatch:
    """A batch of training positives that negatives are drawn for.

    Attributes:
        index: `[batch]` rows of the training split.
        users: `[batch]` user rows.
        own: `[batch]` catalogue rows of the rows' own items, each a positive of its user.
    """

    index: Ints
    users: Ints
    own: Ints

    def __len__(self) -> int:
        return len(self.index)

    def take(self, places: Ints | Mask | slice) -> PositivesBatch:
        """Returns the selected rows."""
        return PositivesBatch(self.index[places], self.users[places], self.own[places])


class RowSampler(Protocol):
    """Draws negatives for each row, excluding the training positives of the row's user."""

    def available(self, rows: PositivesBatch) -> Mask:
        """Returns for which rows there is an item to draw, bool `[batch]`."""
        ...

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """Draws catalogue rows with replacement, int32 `[batch, draws]`; every row must be available."""
        ...

    def drawable(self, rows: PositivesBatch) -> Mask:
        """Returns which items `draw` can return for any of these rows, now or after a ranking, `[num_items]` bool."""
        ...


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


def draw_allowed(
    positives: Pairs,
    users: Ints,
    draws: int,
    propose: Callable[[Ints], Ints],
    choose: Callable[[int, int], Ints],
) -> Items:
    """Draws items that are not positives by rejection sampling, after 30 rounds from an explicit list.

    Args:
        positives: training positives of every user.
        users: `[batch]` user rows.
        draws: draws per row.
        propose: function from positions `[n]` in the batch to one proposed item each, `[n]`.
        choose: function from a position in the batch and a number to that many draws from the list of allowed items.

    Returns:
        `[batch, draws]` int32.
    """
    places = np.repeat(np.arange(len(users)), draws)
    drawn = propose(places).astype(np.int32)
    left = np.flatnonzero(positives.contain(users[places], drawn))
    for _ in range(_ROUNDS):
        if not len(left):
            break
        again = propose(places[left])
        drawn[left] = again
        left = left[positives.contain(users[places[left]], again)]
    for place in np.unique(places[left]):
        at = left[places[left] == place]
        drawn[at] = choose(int(place), len(at))
    return drawn.reshape(len(users), draws)
