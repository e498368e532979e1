"""Negatives from the whole catalogue: every item alike, or hot ones more often."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from twotower_tf.errors import DataError
from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import Floats, Rows, draw_allowed


class CatalogueSampler(ABC):
    """Draws item j with a probability in proportion to its weight w_j, the user's training positives excepted.

    For a row of user u, p(j) = w_j / (W - W_u): W is the catalogue's weight and W_u that of u's positives. For the
    whole batch, where positives are masked afterwards, p(j) = w_j / W.
    """

    def __init__(self, positives: Pairs, total: float, kind: str) -> None:
        """Adds up what is left to each user.

        Args:
            positives: of every user.
            total: the catalogue's weight.
            kind: what the configuration calls it.
        """
        self._positives = positives
        self._total = total
        self._kind = kind
        self._left = total - np.bincount(
            positives.owners(), self.weight(positives.items), minlength=len(positives.counts)
        )

    def require_left(self, users: Ints) -> None:
        """Checks that there is something to draw for each of these users.

        Args:
            users: `[n]` user rows, those that negatives are drawn for.

        Raises:
            DataError: for a user whose positives are all that could be drawn.
        """
        drawable = self.weight(self._positives.items) > 0
        taken = np.bincount(self._positives.owners()[drawable], minlength=len(self._positives.counts))[users]
        total = int(np.count_nonzero(self.weight(np.arange(self._positives.num_items))))
        if taken.max(initial=0) >= total:
            count = self._positives.counts[users[int(taken.argmax())]]
            raise DataError(
                f"a user with {count:,} training positives leaves none of the {total:,} items that {self._kind} draws "
                "from; exclude such users (data.exclude) or use InBatchSoftmax() with (InBatch(),)"
            )

    @abstractmethod
    def weight(self, items: Ints) -> Floats:
        """The weights of items, of their shape."""

    @abstractmethod
    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """`[draws]` items of the whole catalogue, positives or not."""

    def shared_probability(self, items: Ints) -> Floats:
        """Of one draw of `propose`, of the shape of `items`."""
        return self.weight(items) / self._total

    def available(self, rows: Rows) -> Mask:
        """All of them: the constructor has seen to it."""
        return np.ones(len(rows), bool)

    def draw(self, rng: np.random.Generator, rows: Rows, draws: int) -> Items:
        """See `RowSampler`."""

        def choose(place: int, number: int) -> Ints:
            allowed = np.ones(self._positives.num_items, bool)
            allowed[self._positives.of(int(rows.users[place]))] = False
            items = np.flatnonzero(allowed)
            weights = self.weight(items)
            return rng.choice(items, number, p=weights / weights.sum())

        return draw_allowed(self._positives, rows.users, draws, lambda places: self.propose(rng, len(places)), choose)

    def probability(self, rows: Rows, items: Ints) -> Floats:
        """Returns that of one draw, for items `[batch, n]` that are none of the user's positives."""
        return self.weight(items) / self._left[rows.users][:, np.newaxis]

    def own_probability(self, rows: Rows) -> Floats:
        """Returns that of the row's own item, were it allowed like any other: w / (W - W_u + w), `[batch]`."""
        own = self.weight(rows.own)
        return own / (self._left[rows.users] + own)


class UniformSampler(CatalogueSampler):
    """Every item alike."""

    def __init__(self, positives: Pairs) -> None:
        super().__init__(positives, float(positives.num_items), "Uniform")

    def weight(self, items: Ints) -> Floats:
        """1 for every item."""
        return np.ones(items.shape)

    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """`[draws]` items, every one alike."""
        return rng.integers(0, self._positives.num_items, draws, dtype=np.int32)


class PopularitySampler(CatalogueSampler):
    """w_j = max(count_j, floor)^alpha: Mikolov et al. (2013), section 2.2, with a floor under cold items."""

    def __init__(self, positives: Pairs, counts: Ints, alpha: float, floor: float) -> None:
        """Adds up the weights.

        Args:
            positives: of every user.
            counts: `[num_items]` training positives of each item, of all runs.
            alpha: the power.
            floor: the least count; 0 never draws an item without a positive, whatever alpha.
        """
        raised = np.maximum(counts, floor).astype(np.float64)
        self._weights = np.where(raised > 0, raised, 1.0) ** alpha * (raised > 0)
        self._cumulative = np.cumsum(self._weights)
        self._last = int(np.flatnonzero(self._weights)[-1])
        super().__init__(positives, float(self._cumulative[-1]), "Popularity")

    def weight(self, items: Ints) -> Floats:
        """Of the items, as the class says."""
        return self._weights[items]

    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """`[draws]` items by inversion of the cumulative weights."""
        points = rng.random(draws) * self._total
        return np.minimum(np.searchsorted(self._cumulative, points, side="right"), self._last)
