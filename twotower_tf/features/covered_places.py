"""Computes the union of many ranges of places. Imports no TensorFlow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]


def merge_ranges(starts: Ints, ends: Ints, size: int) -> npt.NDArray[np.bool_]:
    """Finds which of `size` places lie in any range from a start to its end (exclusive), in time linear in both.

    Returns:
        `[size]`.
    """
    edges = np.zeros(size + 1, np.int32)
    np.add.at(edges, starts, 1)
    np.add.at(edges, ends, -1)
    np.cumsum(edges, out=edges)
    return edges[:-1] > 0
