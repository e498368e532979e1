"""Computes with ragged rows: lists of different lengths one after the other, in one array of values.

The list of row i is `values[offsets[i] : offsets[i + 1]]`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def to_offsets(counts: npt.NDArray[Any]) -> Ints:
    """Returns where each list begins, and the last one ends: int64 `[rows + 1]`, from lengths `[rows]`."""
    return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


def to_rows(counts: npt.NDArray[Any]) -> Ints:
    """Returns the row of each value: int64 `[sum of counts]`, from lengths `[rows]`."""
    rows: Ints = np.repeat(np.arange(len(counts)), counts)
    return rows


def to_places(starts: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Ints:
    """Concatenates the ranges start, start + 1, ..., start + count - 1: int64 `[sum of counts]`."""
    ends = np.cumsum(counts, dtype=np.int64)
    places: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
    return places


def merge_ranges(starts: npt.NDArray[Any], ends: npt.NDArray[Any], size: int) -> npt.NDArray[np.bool_]:
    """Finds which of `size` places lie in any range from a start to its end (exclusive), in time linear in both."""
    edges = np.zeros(size + 1, np.int32)
    np.add.at(edges, starts, 1)
    np.add.at(edges, ends, -1)
    np.cumsum(edges, out=edges)
    return edges[:-1] > 0
