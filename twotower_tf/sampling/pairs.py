"""Sets of (owner, item) pairs: a user's training positives or rejections, the members of a group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged

Ints = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]
Items = npt.NDArray[np.int32]


class Pairs:
    """Distinct (owner, item) pairs, as compressed sparse rows and as sorted keys `owner * num_items + item`.

    A look-up is one binary search.

    Attributes:
        num_items: number of items of the catalogue.
        starts: `[owners + 1]` int64, offset of each owner's items in `items`.
        counts: `[owners]` int64, number of items of each owner.
        items: `[pairs]` int32 catalogue rows, ascending within an owner.
    """

    def __init__(self, owners: Ints, items: Ints, num_owners: int, num_items: int) -> None:
        """Sorts the pairs and removes duplicates; `owners` and `items` are `[pairs]`, numbered from 0."""
        self.num_items = num_items
        self._keys = np.unique(owners.astype(np.int64) * num_items + items)
        self.starts = np.searchsorted(self._keys, np.arange(num_owners + 1, dtype=np.int64) * num_items)
        self.counts = np.diff(self.starts)
        self.items = (self._keys % max(num_items, 1)).astype(np.int32)

    def __len__(self) -> int:
        return len(self.items)

    def owners(self) -> npt.NDArray[np.int64]:
        """Returns the owner of every entry of `items`, `[pairs]` int64."""
        return ragged.to_rows(self.counts)

    def of(self, owner: int) -> npt.NDArray[np.int32]:
        """Returns the items of one owner, ascending."""
        return self.items[self.starts[owner] : self.starts[owner + 1]]

    def contain(self, owners: Ints, items: Ints) -> Mask:
        """Returns whether each pair is in the set, bool of the broadcast shape of `owners` and `items`."""
        if not len(self._keys):
            return np.zeros(np.broadcast_shapes(owners.shape, items.shape), bool)
        keys = owners.astype(np.int64) * self.num_items + items
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: Mask = self._keys[places] == keys
        return found

    def without(self, others: Pairs) -> Pairs:
        """Returns the pairs that are not in `others`."""
        owners = self.owners()
        kept = ~others.contain(owners, self.items)
        return Pairs(owners[kept], self.items[kept], len(self.starts) - 1, self.num_items)
