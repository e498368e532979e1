"""Samplers of negatives from the whole catalogue: uniform, or by popularity."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from twotower_tf.errors import DataError
from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import Floats, PositivesBatch, draw_allowed


class CatalogueSampler(ABC):
    """Draws item j with probability proportional to its weight w_j, excluding the user's training positives.

    For a row of user u, p(j) = w_j / (W - W_u), where W is the weight of the catalogue and W_u that of u's positives.
    For draws shared by the batch, whose accidental hits are masked afterwards, p(j) = w_j / W.
    """

    def __init__(self, positives: Pairs, total: float, kind: str) -> None:
        """Computes W - W_u of each user; `total` is W, and `kind` names the configuration class in errors."""
        self._positives = positives
        self._total = total
        self._kind = kind
        self._left = total - np.bincount(
            positives.owners(), self.weight(positives.items), minlength=len(positives.counts)
        )

    def require_left(self, users: Ints) -> None:
        """Checks that each of these users, `[n]`, has at least one item that can be drawn.

        Raises:
            DataError: for a user whose positives include every such item.
        """
        drawable = self.weight(self._positives.items) > 0
        taken = np.bincount(self._positives.owners()[drawable], minlength=len(self._positives.counts))[users]
        total = int(np.count_nonzero(self.weight(np.arange(self._positives.num_items))))
        if taken.max(initial=0) >= total:
            count = self._positives.counts[users[int(taken.argmax())]]
            raise DataError(
                f"sampling.negatives: {self._kind} has no item to draw for a user with {count:,} training positives, "
                f"which include all {total:,} items it draws from; exclude such users (data.exclude) or use "
                "InBatchSoftmax() with (InBatch(),)"
            )

    def drawable(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`: every item that has a weight."""
        drawable: Mask = self.weight(np.arange(self._positives.num_items)) > 0
        return drawable

    @abstractmethod
    def weight(self, items: Ints) -> Floats:
        """Returns the weights of items, in the shape of `items`."""

    @abstractmethod
    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """Draws `[draws]` items from the whole catalogue, positives included."""

    def shared_probability(self, items: Ints) -> Floats:
        """Returns the probability of one draw of `propose`, in the shape of `items`."""
        return self.weight(items) / self._total

    def available(self, rows: PositivesBatch) -> Mask:
        """Always available; `require_left` checks it."""
        return np.ones(len(rows), bool)

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """See `RowSampler`."""

        def choose(place: int, number: int) -> Ints:
            allowed = np.ones(self._positives.num_items, bool)
            allowed[self._positives.of(int(rows.users[place]))] = False
            items = np.flatnonzero(allowed)
            weights = self.weight(items)
            return rng.choice(items, number, p=weights / weights.sum())

        return draw_allowed(self._positives, rows.users, draws, lambda places: self.propose(rng, len(places)), choose)

    def probability(self, rows: PositivesBatch, items: Ints) -> Floats:
        """Returns the probability of one draw, for items `[batch, n]` that are not positives of the user."""
        return self.weight(items) / self._left[rows.users][:, np.newaxis]

    def own_probability(self, rows: PositivesBatch) -> Floats:
        """Returns the probability of the row's own item if it were not excluded, `[batch]`: w / (W - W_u + w)."""
        own = self.weight(rows.own)
        return own / (self._left[rows.users] + own)


class UniformSampler(CatalogueSampler):
    """Draws every item with the same probability."""

    def __init__(self, positives: Pairs) -> None:
        super().__init__(positives, float(positives.num_items), "Uniform")

    def weight(self, items: Ints) -> Floats:
        """Returns 1 for every item."""
        return np.ones(items.shape)

    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """Draws `[draws]` items uniformly."""
        return rng.integers(0, self._positives.num_items, draws, dtype=np.int32)


class WholeCatalogue(UniformSampler):
    """Gives every item once, as candidates that all rows share."""

    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """Returns all catalogue rows; `draws` is their number."""
        return np.arange(draws, dtype=np.int32)


class PopularitySampler(CatalogueSampler):
    """Draws item j with weight w_j = max(count_j, floor)^alpha (Mikolov et al., 2013, section 2.2, plus a floor)."""

    def __init__(self, positives: Pairs, counts: Ints, alpha: float, floor: float) -> None:
        """Computes the weights from the training positives of each item, `[num_items]`, earlier runs included.

        With a `floor` of 0, items without a positive are never drawn, whatever alpha.
        """
        raised = np.maximum(counts, floor).astype(np.float64)
        self._weights = np.where(raised > 0, raised, 1.0) ** alpha * (raised > 0)
        self._cumulative = np.cumsum(self._weights)
        self._last = int(np.flatnonzero(self._weights)[-1])
        super().__init__(positives, float(self._cumulative[-1]), "Popularity")

    def weight(self, items: Ints) -> Floats:
        """Returns the weights of items."""
        return self._weights[items]

    def propose(self, rng: np.random.Generator, draws: int) -> Ints:
        """Draws `[draws]` items by inverting the cumulative weights."""
        points = rng.random(draws) * self._total
        return np.minimum(np.searchsorted(self._cumulative, points, side="right"), self._last)
