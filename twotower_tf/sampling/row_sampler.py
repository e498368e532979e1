"""What a sampler of a row's own negatives is, and how positives are kept out of its draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs

Floats = npt.NDArray[np.float64]

_ROUNDS = 30


@dataclass(frozen=True)
class Rows:
    """Positives of the training split that negatives are drawn for.

    Attributes:
        index: `[batch]` rows of the training split.
        users: `[batch]` user rows.
        own: `[batch]` catalogue rows of the positives, each of which is one of its user's.
    """

    index: Ints
    users: Ints
    own: Ints

    def __len__(self) -> int:
        return len(self.index)

    def take(self, places: Ints | Mask) -> Rows:
        """Some of them."""
        return Rows(self.index[places], self.users[places], self.own[places])


class RowSampler(Protocol):
    """Draws negatives for each row, none of which is a training positive of the row's user."""

    def available(self, rows: Rows) -> Mask:
        """`[batch]` bool: for which rows there is anything to draw."""
        ...

    def draw(self, rng: np.random.Generator, rows: Rows, draws: int) -> Items:
        """`[batch, draws]` int32 catalogue rows, with replacement, of rows for which there is something."""
        ...


def draw_allowed(
    positives: Pairs,
    users: Ints,
    draws: int,
    propose: Callable[[Ints], Ints],
    choose: Callable[[int, int], Ints],
) -> Items:
    """Draws by rejection what is no positive; what chance leaves over after 30 rounds, from an explicit list.

    Args:
        positives: of every user.
        users: `[batch]` user rows.
        draws: of each row.
        propose: from places `[n]` in the batch to one proposal for each, `[n]`.
        choose: from a place in the batch and a number to as many draws from the list of all that is allowed there.

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
