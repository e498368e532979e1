"""Finds the k best columns of every row of a score matrix: exact, deterministic, much faster than sorting.

A cheap pass finds for every row a score that at least k columns reach; only the columns that reach it are sorted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf import resources

Floats = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.int64]

_GROUP = 64  # columns behind one group maximum
_GROUPS_PER_K = 4  # enough groups for the bound to let through little more than k columns
_CROWDED = 4  # a row with more than this many times k candidates has ties worth cutting
_ABREAST = 8  # the width of a table of candidates is a multiple of this
_NONE = np.iinfo(np.int64).max  # the key of no column: after all others
_MAGNITUDE = np.int32(0x7FFFFFFF)


def available_threads(threads: int = 0) -> int:
    """Returns the number of threads to use: as given, or for 0 the CPUs that this process may use."""
    return threads if threads > 0 else resources.count_cpus()


def top_k(scores: Floats, k: int) -> tuple[Columns, Floats]:
    """Finds the k highest scores of every row; among equal scores the lower column comes first.

    Args:
        scores: [num_rows, num_columns] float32, without NaN. Minus infinity sorts last.
        k: how many; all columns where there are fewer.

    Returns:
        Columns [num_rows, k'] int32 and their scores [num_rows, k'] float32, descending; k' = min(k, num_columns).
    """
    k = min(k, scores.shape[1])
    mask = scores >= _bounds(scores, k)[:, None]
    columns, there = _columns(mask)
    crowded = np.flatnonzero(np.count_nonzero(there, axis=1) > _CROWDED * k)
    if len(crowded):
        mask[crowded] = _without_surplus(scores[crowded], k)
        columns, there = _columns(mask)
    return sort_candidates(columns, np.take_along_axis(scores, columns, axis=1), k, there)


def find_candidates(scores: Floats, k: int, slack: float) -> tuple[Columns, Mask]:
    """Finds every column within `slack` of its row's k-th highest score, and perhaps a few more.

    Args:
        scores: [num_rows, num_columns] float32, without NaN.
        k: at most num_columns.
        slack: in units of the scores.

    Returns:
        Columns [num_rows, width] int32, ascending, and which of them are there; the others, at the end, are 0.
    """
    return _columns(scores >= (_bounds(scores, k) - np.float32(slack))[:, None])


def sort_candidates(columns: Columns, values: Floats, k: int, there: Mask | None = None) -> tuple[Columns, Floats]:
    """Sorts candidates into k answers a row: highest value first, among equal values the lower column.

    Args:
        columns: [num_rows, width] or, where they are the same in every row, [width]; non-negative.
        values: [num_rows, width] float32, without NaN.
        k: answers of each row; at most as many as it has candidates.
        there: [num_rows, width] which of the candidates count; by default all.

    Returns:
        Columns [num_rows, k] int32 and values [num_rows, k] float32.
    """
    keys = _keys(values, columns)
    if there is not None:
        keys[~there] = _NONE
    if k < keys.shape[1]:
        keys.partition(k - 1, axis=1)
    keys = keys[:, :k]
    keys.sort(axis=1)
    return _parts(keys)


def _keys(values: Floats, columns: Columns) -> Keys:
    """Makes integers that sort as values descending, then columns ascending: the value's bits above the column's.

    The bits of a float32 sort as the number does, if those below the sign of a negative one are flipped.
    """
    bits = (values + np.float32(0)).view(np.int32)  # -0 is 0
    keys: Keys = (~_flipped(bits)).astype(np.int64)
    keys <<= 32
    keys |= columns
    return keys


def _parts(keys: Keys) -> tuple[Columns, Floats]:
    """Splits keys that `_keys` made."""
    columns = keys.astype(np.int32)  # the lower half
    return columns, _flipped(~(keys >> 32).astype(np.int32)).view(np.float32)


def _flipped(bits: Columns) -> Columns:
    flipped: Columns = bits ^ ((bits >> 31) & _MAGNITUDE)
    return flipped


def _bounds(scores: Floats, k: int) -> Floats:
    """Returns for every row a score that at least k of its columns reach: the k-th highest, or slightly less."""
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


def _columns(mask: Mask) -> tuple[Columns, Mask]:
    """Returns the marked columns [num_rows, width] of a mask, ascending, and which of them are present."""
    return list_marked(np.flatnonzero(mask), *mask.shape)


def list_marked(flat: npt.NDArray[np.intp], num_rows: int, num_columns: int) -> tuple[Columns, Mask]:
    """Returns the columns [num_rows, width], ascending, of ascending places: row times num_columns plus column."""
    starts = np.searchsorted(flat, np.arange(num_rows + 1) * num_columns)
    counts = np.diff(starts)
    width = -(-int(counts.max(initial=0)) // _ABREAST) * _ABREAST
    there = np.arange(width) < counts[:, None]
    columns = np.zeros(there.shape, np.int32)
    columns[there] = flat - np.repeat(np.arange(num_rows) * num_columns, counts)
    return columns, there
