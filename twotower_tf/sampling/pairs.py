"""Which items belong to which owner: a user's training positives, what a user rejected, a group's members."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]
Items = npt.NDArray[np.int32]


class Pairs:
    """Distinct (owner, item) pairs, as compressed rows and as sorted numbers `owner * num_items + item`.

    A batch of look-ups is one binary search per pair.

    Attributes:
        num_items: rows of the catalogue.
        starts: `[owners + 1]` int64, where each owner's part of `items` begins.
        counts: `[owners]` int64, items of each owner.
        items: `[pairs]` int32 catalogue rows, ascending within an owner.
    """

    def __init__(self, owners: Ints, items: Ints, num_owners: int, num_items: int) -> None:
        """Takes pairs in any order, some perhaps several times.

        Args:
            owners: `[pairs]`, from 0 to below `num_owners`.
            items: `[pairs]` catalogue rows.
            num_owners: how many owners there are.
            num_items: rows of the catalogue.
        """
        self.num_items = num_items
        self._keys = np.unique(owners.astype(np.int64) * num_items + items)
        self.starts = np.searchsorted(self._keys, np.arange(num_owners + 1, dtype=np.int64) * num_items)
        self.counts = np.diff(self.starts)
        self.items = (self._keys % max(num_items, 1)).astype(np.int32)

    def __len__(self) -> int:
        return len(self.items)

    def owners(self) -> npt.NDArray[np.int64]:
        """`[pairs]` int64: the owner of every entry of `items`."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def of(self, owner: int) -> npt.NDArray[np.int32]:
        """The items of one owner, ascending."""
        return self.items[self.starts[owner] : self.starts[owner + 1]]

    def contain(self, owners: Ints, items: Ints) -> Mask:
        """Bool of the common shape of `owners` and `items`: whether each pair is one of these."""
        if not len(self._keys):
            return np.zeros(np.broadcast_shapes(owners.shape, items.shape), bool)
        keys = owners.astype(np.int64) * self.num_items + items
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        found: Mask = self._keys[places] == keys
        return found

    def without(self, others: Pairs) -> Pairs:
        """Those that are not among `others`, of the same owners."""
        owners = self.owners()
        kept = ~others.contain(owners, self.items)
        return Pairs(owners[kept], self.items[kept], len(self.starts) - 1, self.num_items)


def ranges(starts: Ints, counts: Ints) -> npt.NDArray[np.int64]:
    """The numbers start, start + 1, ... of every range, one range after the other: int64 `[sum of counts]`."""
    counts = counts.astype(np.int64)
    ends = np.cumsum(counts)
    numbers: npt.NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(starts - (ends - counts), counts)
    return numbers
