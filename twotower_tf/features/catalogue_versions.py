"""Finds encoded versions of the items by the time from which each holds. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from twotower_tf.artifacts import PreparedPaths
from twotower_tf.ragged import merge_ranges

Batch = dict[str, np.ndarray]


class Versions:
    """The versions of every item, mapped from disk."""

    def __init__(self, paths: PreparedPaths) -> None:
        self._arrays = load(paths.encoded_versions)
        index = load(paths.version_index)
        self._starts, self._since = np.asarray(index["starts"]), np.asarray(index["since"])
        self._rounds = int(np.max(np.diff(self._starts), initial=1) - 1).bit_length()

    def batch(self, item_rows: np.ndarray, times: np.ndarray | int) -> Batch:
        """Returns encoded tensors of items `[n]` as of epoch microseconds `[n]`, or of one time for all."""
        found = self.find(item_rows, times)
        return {name: array[found] for name, array in self._arrays.items()}

    def find(self, item_rows: np.ndarray, times: np.ndarray | int) -> np.ndarray:
        """Finds the last version of each item that begins at or before the time, `[n]` int64.

        An item's first version begins before all times. The search halves every item's versions at once.
        """
        low: np.ndarray
        low, high = self._starts[item_rows], self._starts[np.asarray(item_rows) + 1] - 1
        for _ in range(self._rounds):
            middle = (low + high + 1) >> 1
            begun = self._since[middle] <= times
            low, high = np.where(begun, middle, low), np.where(begun, high, middle - 1)
        return low

    def between(self, items: np.ndarray, first: int, last: int) -> np.ndarray:
        """Returns which versions of items, bool `[num_items]`, are valid at any time from `first` to `last`."""
        rows = np.flatnonzero(items)
        return merge_ranges(self.find(rows, first), self.find(rows, last) + 1, len(self._since))

    def rows(self, chosen: np.ndarray) -> Batch:
        """Returns encoded tensors of versions, by their numbers `[n]`."""
        return {name: array[chosen] for name, array in self._arrays.items()}


def load(directory: Path) -> Batch:
    """Maps the arrays of a directory, by name."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(directory.glob("*.npy"))}
