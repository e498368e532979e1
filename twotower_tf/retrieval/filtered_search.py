"""Searches among the eligible items of a query: k of them, or all if there are fewer.

More items are fetched than requested, as many as are expected to fall away. Where too many did, more are fetched;
where that would cost more than scoring every allowed item, or has no stated recall, those are scored. So an answer is
short only where no item is left, and has the stated recall however many are excluded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.searcher import Answers, Searcher, check_queries

_CELLS = 1 << 20  # fetched items that are looked through at a time
_DEVIATIONS = 4.0  # of the number that falls away by the filter, were it by chance

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def search(
    searcher: Searcher,
    queries: npt.ArrayLike,
    k: int,
    excluded: Ineligible | None = None,
    allowed: Eligible | None = None,
) -> Answers:
    """Finds k items for every query among those it may have.

    With an exact searcher the answer is exact. With an approximate one it has the recall that the index states, and is
    exact where few items are allowed or more fell away than the index fetches.

    Args:
        searcher: what is searched.
        queries: [num_queries, vector_dim] float32, unit length. Many at once are answered faster than one by one.
        k: at least 1.
        excluded: items that single queries may not have; of as many queries.
        allowed: the items that any query may have; by default all.

    Returns:
        k distinct items per query, all that it may have where those are fewer.

    Raises:
        DataError: as `Searcher.search` says.
    """
    table = check_queries(queries, k, searcher.items.dim)
    size = len(searcher.items)
    if excluded is None and allowed is None and min(k, size) <= max(searcher.fetches(size), default=0):
        return _unfiltered(searcher, table, min(k, size))
    none = np.empty(0, np.int64)
    k = min(k, size)
    gone = excluded if excluded is not None else Ineligible(none, none, len(table))
    passing = size if allowed is None else len(allowed)
    wanted = np.minimum(k, passing - (gone if allowed is None else gone.within(allowed)).counts)
    fetches = np.array(searcher.fetches(passing), np.int64)
    level = np.searchsorted(fetches, _needed(k, gone.counts, passing / size, searcher.stated_k))
    parts: list[tuple[Rows, Answers]] = []
    pending = np.arange(len(table))
    while len(pending):
        over = level[pending] == len(fetches)
        scanned = pending[over]
        if len(scanned):
            parts.append((scanned, searcher.scan(table[scanned], k, gone.take(scanned), allowed)))
        short = [np.empty(0, np.int64)]
        for each in np.unique(level[pending[~over]]):
            requested, fetch = pending[level[pending] == each], int(fetches[each])
            step = max(1, _CELLS // fetch)
            for part in (requested[start : start + step] for start in range(0, len(requested), step)):
                short.append(_fetched(searcher, table, k, part, fetch, gone, allowed, wanted, parts))
        pending = np.sort(np.concatenate(short))
        level[pending] += 1
    return _merged(parts, len(table), searcher)


def _unfiltered(searcher: Searcher, table: Floats, k: int) -> Answers:
    """Returns what the index answers, where every query may have every item."""
    found = searcher.search(table, k)
    offsets = np.arange(0, k * len(table) + 1, k, dtype=np.int64)
    return Answers(found.rows.reshape(-1), found.scores.reshape(-1), searcher.items, offsets)


def _needed(k: int, gone: Rows, share: float, stated_k: int) -> npt.NDArray[np.float64]:
    """Returns how many items to fetch, so that k are left of the eligible ones.

    A level's recall is that of its last `stated_k` ranks, and lower at the last of them than at the first. Of a smaller
    k, the middle of the answers lies no further than the middle of those ranks. Just k where nothing falls away.
    """
    if share <= 0:
        return np.full(len(gone), np.inf)
    expected = (k + gone) / share
    spare = _DEVIATIONS * np.sqrt(expected * (1 - share)) / share
    middle = max(0, stated_k - k) / 2
    needed: npt.NDArray[np.float64] = np.where((gone > 0) | (share < 1), expected + spare + middle, k)
    return needed


def _fetched(
    searcher: Searcher,
    table: Floats,
    k: int,
    requested: Rows,
    fetch: int,
    gone: Ineligible,
    allowed: Eligible | None,
    wanted: Rows,
    parts: list[tuple[Rows, Answers]],
) -> Rows:
    """Adds the answers of the queries requested that fetching was enough for; returns the others."""
    found = searcher.search(table[requested], fetch)
    kept = ~gone.take(requested).hits(found.rows)
    if allowed is not None:
        kept &= allowed.mask[found.rows]
    enough = np.count_nonzero(kept, axis=1) >= wanted[requested]
    answers = Answers.first(k, kept[enough], found.rows[enough], found.scores[enough], searcher.items)
    parts.append((requested[enough], answers))
    short: Rows = requested[~enough]
    return short


def _merged(parts: list[tuple[Rows, Answers]], num_queries: int, searcher: Searcher) -> Answers:
    """Joins the answers to groups of queries in the order of the queries."""
    if len(parts) == 1:
        return parts[0][1]
    counts = np.zeros(num_queries, np.int64)
    for queries, answers in parts:
        counts[queries] = np.diff(answers.offsets)
    offsets = ragged.to_offsets(counts)
    rows, scores = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    for queries, answers in parts:
        places = ragged.to_places(offsets[queries], counts[queries])
        rows[places], scores[places] = answers.rows, answers.scores
    return Answers(rows, scores, searcher.items, offsets)
