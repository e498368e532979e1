"""The k best columns of every row of a score matrix: exact, deterministic, much faster than sorting.

A cheap pass finds for every row a score that at least k columns reach; only the columns that reach it are sorted.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_GROUP = 64  # columns behind one group maximum
_GROUPS_PER_K = 4  # enough groups for the bound to let through little more than k columns
_CROWDED = 4  # a row with more than this many times k candidates has ties worth cutting


def available_threads(threads: int = 0) -> int:
    """The number of threads to use: as asked, or for 0 the cores this process may run on."""
    return threads if threads > 0 else len(os.sched_getaffinity(0))


def top_k(scores: Floats, k: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Finds the k highest scores of every row; among equal scores the lower column comes first.

    Args:
        scores: [num_rows, num_columns] float32, without NaN. Minus infinity sorts last.
        k: how many; all columns where there are fewer.

    Returns:
        Columns [num_rows, k'] int32 and their scores [num_rows, k'] float32, descending; k' = min(k, num_columns).
    """
    k = min(k, scores.shape[1])
    mask = scores >= _bounds(scores, k)[:, None]
    crowded = np.flatnonzero(np.count_nonzero(mask, axis=1) > _CROWDED * k)
    if len(crowded):
        mask[crowded] = _without_surplus(scores[crowded], k)
    rows, columns = _coordinates(mask)
    return arrange(rows, columns, scores[rows, columns], len(scores), k)


def candidates(scores: Floats, k: int, slack: float) -> tuple[Ints, Ints]:
    """Finds every column within `slack` of its row's k-th highest score, and perhaps a few more.

    Args:
        scores: [num_rows, num_columns] float32, without NaN.
        k: at most num_columns.
        slack: in units of the scores.

    Returns:
        Rows and columns [num_candidates] int64, ordered by row, then column.
    """
    return _coordinates(scores >= (_bounds(scores, k) - np.float32(slack))[:, None])


def arrange(rows: Ints, columns: Ints, values: Floats, num_rows: int, k: int) -> tuple[npt.NDArray[np.int32], Floats]:
    """Sorts candidates into k answers a row: highest value first, among equal values the lower column.

    Args:
        rows: [num_candidates], ordered; every row has at least k candidates.
        columns: [num_candidates], ascending within a row.
        values: [num_candidates] float32.
        num_rows: rows of the result.
        k: answers of each row.

    Returns:
        Columns [num_rows, k] int32 and values [num_rows, k] float32.
    """
    counts = np.bincount(rows, minlength=num_rows)
    positions = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = int(counts.max(initial=0))
    keys = np.full((num_rows, width), np.inf, np.float32)
    keys[rows, positions] = -values
    padded = np.zeros((num_rows, width), np.int32)
    padded[rows, positions] = columns
    order = np.argsort(keys, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(padded, order, axis=1), -np.take_along_axis(keys, order, axis=1)


def _bounds(scores: Floats, k: int) -> Floats:
    """For every row a score that at least k of its columns reach: the k-th highest, or slightly less."""
    num_rows, num_columns = scores.shape
    size = min(_GROUP, num_columns // (_GROUPS_PER_K * k))
    if size < 2:
        return np.partition(scores, num_columns - k, axis=1)[:, num_columns - k]
    # The maxima of disjoint groups are scores of distinct columns, so k groups reach the k-th highest maximum.
    # A group is every num_groups-th column: that reduction runs along memory. Columns left over need no group.
    groups = num_columns // size
    maxima = scores[:, : groups * size].reshape(num_rows, size, groups).max(axis=1)
    return np.partition(maxima, groups - k, axis=1)[:, groups - k]


def _without_surplus(scores: Floats, k: int) -> Mask:
    """Marks exactly k columns of every row: those above the k-th highest score, then the first that equal it."""
    bound = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k, None]
    above, equal = scores > bound, scores == bound
    wanted = k - np.count_nonzero(above, axis=1)[:, None]
    kept: Mask = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= wanted))
    return kept


def _coordinates(mask: Mask) -> tuple[Ints, Ints]:
    rows, columns = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return rows, columns
