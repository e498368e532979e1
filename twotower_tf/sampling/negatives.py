"""Negatives from the catalogue, drawn fresh for every batch."""

from __future__ import annotations

import numpy as np

from twotower_tf.errors import DataError

_ROUNDS = 30


class Positives:
    """Which items are a user's training positives.

    Pairs are kept as sorted numbers `user * items + item`: a batch of look-ups is one binary search per pair.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, num_items: int) -> None:
        """Takes pairs.

        Args:
            users: `[pairs]` user rows.
            items: `[pairs]` catalogue rows.
            num_items: rows of the catalogue.
        """
        self._num_items = num_items
        self._pairs = np.unique(users.astype(np.int64) * num_items + items)
        self.per_user = np.bincount(self._pairs // max(num_items, 1))

    def contain(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Bool of the common shape of `users` and `items`: whether each pair is a positive."""
        if not len(self._pairs):
            return np.zeros(np.broadcast_shapes(users.shape, items.shape), bool)
        pairs = users.astype(np.int64) * self._num_items + items
        places = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        found: np.ndarray = self._pairs[places] == pairs
        return found


def uniform(
    rng: np.random.Generator,
    positives: Positives,
    users: np.ndarray,
    own: np.ndarray,
    per_positive: int,
    num_items: int,
) -> np.ndarray:
    """Draws items of the catalogue, every one alike, that are neither the user's positives nor the row's own.

    Args:
        rng: of the batch.
        positives: of the training split.
        users: `[batch]` user rows.
        own: `[batch]` catalogue rows.
        per_positive: draws per row, with replacement.
        num_items: rows of the catalogue.

    Returns:
        int32 `[batch, per_positive]` catalogue rows: exactly uniform over the allowed ones, by rejection; where
        chance leaves a pair over after 30 rounds, from an explicit list of the user's allowed items.

    Raises:
        DataError: where a user's positives leave no item of the catalogue.
    """
    drawn = rng.integers(0, num_items, (len(users), per_positive), dtype=np.int64)
    columns = users[:, np.newaxis]
    wrong = positives.contain(columns, drawn) | (drawn == own[:, np.newaxis])
    for _ in range(_ROUNDS):
        if not wrong.any():
            return drawn.astype(np.int32)
        at = np.nonzero(wrong)
        again = rng.integers(0, num_items, len(at[0]))
        drawn[at] = again
        wrong[at] = positives.contain(users[at[0]], again) | (again == own[at[0]])
    for row in np.unique(np.nonzero(wrong)[0]):
        catalogue = np.arange(num_items)
        allowed = catalogue[~positives.contain(users[row : row + 1], catalogue) & (catalogue != own[row])]
        if not len(allowed):
            raise DataError(
                f"a user with {positives.per_user[users[row]]:,} training positives leaves none of the catalogue's "
                f"{num_items:,} items to draw negatives from; exclude such users (data.exclude) or use InBatchSoftmax()"
            )
        drawn[row, wrong[row]] = rng.choice(allowed, int(wrong[row].sum()))
    return drawn.astype(np.int32)
