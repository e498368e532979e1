"""Computes the union of many ranges of places. Imports no TensorFlow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]


def merge_ranges(starts: Ints, ends: Ints, size: int) -> npt.NDArray[np.bool_]:
    """Finds the places that lie in any range, in time linear in the ranges and the places.

    Args:
        starts: `[ranges]`, from 0.
        ends: `[ranges]`, the place after each range's last; the range is empty where it is the start.
        size: how many places there are.

    Returns:
        `[size]`.
    """
    edges = np.zeros(size + 1, np.int32)
    np.add.at(edges, starts, 1)
    np.add.at(edges, ends, -1)
    np.cumsum(edges, out=edges)
    return edges[:-1] > 0
