"""Draws hard negatives that are mined from the model's own ranking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.sampling.catalogue_samplers import CatalogueSampler
from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import PositivesBatch

BLOCK_BYTES = 32 << 20  # of scores held at a time


class MinedSampler:
    """Draws uniformly from the items between two ranks of the model's ranking for the row's user.

    Before the first ranking it draws like `Uniform`.

    Huang et al., "Embedding-based Retrieval in Facebook Search" (KDD 2020), section 6.1.
    """

    def __init__(self, positives: Pairs, uniform: CatalogueSampler, ranks: tuple[int, int]) -> None:
        """Starts without a ranking; the first and last of `ranks` count from 1 among items that are not positives."""
        self._positives = positives
        self._uniform = uniform
        self.ranks = ranks
        self._pools: Items | None = None  # [users, places], ascending, padded with num_items
        self._counts = np.zeros(len(positives.counts), np.int64)

    # --- the ranking --------------------------------------------------------------------------------------------------

    def refresh(
        self, users: Ints, user_vectors: npt.NDArray[np.float32], item_vectors: npt.NDArray[np.float32]
    ) -> None:
        """Ranks the catalogue again for every user, in blocks; ties are in any order.

        Args:
            users: `[n]` rows of the users with a training positive.
            user_vectors: `[n, dim]` float32.
            item_vectors: `[num_items, dim]` float32.
        """
        first, last = self.ranks
        num_items = len(item_vectors)
        width = min(last, num_items) - first + 1
        pools = np.full((len(self._counts), width), num_items, np.int32)
        counts = np.zeros(len(self._counts), np.int64)
        size = max(1, BLOCK_BYTES // (8 * num_items))
        for start in range(0, len(users), size):
            block = users[start : start + size]
            scores = user_vectors[start : start + size] @ item_vectors.T
            taken = self._positives.counts[block]
            places = np.repeat(np.arange(len(block)), taken)
            scores[places, self._positives.items[ragged.to_places(self._positives.starts[block], taken)]] = -np.inf
            pools[block], counts[block] = _select_ranks(scores, num_items - taken, first, width)
        self._pools, self._counts = pools, counts

    # --- draws --------------------------------------------------------------------------------------------------------

    def available(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`."""
        return np.ones(len(rows), bool) if self._pools is None else self._counts[rows.users] > 0

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """See `RowSampler`."""
        if self._pools is None:
            return self._uniform.draw(rng, rows, draws)
        places = rng.integers(0, self._counts[rows.users][:, np.newaxis], (len(rows), draws))
        return self._pools[rows.users[:, np.newaxis], places]

    def drawable(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`: every item may be ranked between the two places."""
        return np.ones(self._positives.num_items, bool)


def _select_ranks(
    scores: npt.NDArray[np.float32], candidates: npt.NDArray[np.int64], first: int, width: int
) -> tuple[Items, npt.NDArray[np.int64]]:
    """Returns the columns ranked `first` to `first + width - 1` in each row, in ascending order; see `refresh`.

    Scores are `[n, num_items]`, minus infinity for excluded items; `[n]` others are candidates.

    Returns:
        `[n, width]` int32 padded with num_items, and `[n]` the number of items before the padding.
    """
    num_items = scores.shape[1]
    counts = np.clip(candidates - (first - 1), 0, width)
    cut = num_items - (first - 1)  # in ascending order the best first - 1 items start here
    bounds = [cut - width] if cut == num_items else [cut - width, cut]
    ordered = np.argpartition(scores, bounds, axis=1)[:, cut - width : cut]
    # The lowest ranks of a short ranking are excluded items.
    valid = np.take_along_axis(scores, ordered, axis=1) > -np.inf
    return np.sort(np.where(valid, ordered, num_items), axis=1).astype(np.int32), counts
