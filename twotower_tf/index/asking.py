"""Search among the items that a query may have: k of them, or all where there are fewer.

More items are fetched than asked for, as many as are expected to fall away. Where too many did, more are fetched;
where that would cost more than scoring every allowed item, those are scored. So an answer is short only where no item
is left.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.index.allowed import Allowed, Excluded
from twotower_tf.index.searcher import Answers, Searcher, check_queries

_MORE = 4  # times as many items are fetched where too few were left
_DEVIATIONS = 4.0  # of the number that falls away by the filter, were it by chance

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def search(
    searcher: Searcher,
    queries: npt.ArrayLike,
    k: int,
    excluded: Excluded | None = None,
    allowed: Allowed | None = None,
) -> Answers:
    """Finds k items for every query among those it may have.

    With an exact searcher the answer is exact. With an approximate one it has the recall of `searcher.search`, and is
    exact where few items are allowed or most of the nearest fell away.

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
    nobody = np.empty(0, np.int64)
    gone = excluded if excluded is not None else Excluded(nobody, nobody, len(table))
    passing = size if allowed is None else len(allowed)
    wanted = np.minimum(k, passing - (gone if allowed is None else gone.within(allowed)).counts)
    fetch = _fetch(k, gone.counts, passing / size)
    parts: list[tuple[Rows, Answers]] = []
    pending = np.arange(len(table))
    while len(pending):
        over = fetch[pending].astype(np.float64) >= size
        for level in np.unique(fetch[pending]):
            over |= (fetch[pending] == level) & (searcher.effort(int(level)) >= passing)
        scanned = pending[over]
        if len(scanned):
            parts.append((scanned, searcher.scan(table[scanned], k, gone.take(scanned), allowed)))
        pending = _fetched(searcher, table, k, pending[~over], fetch, gone, allowed, wanted, parts)
        fetch[pending] *= _MORE
    return _merged(parts, len(table), searcher)


def _fetch(k: int, gone: Rows, share: float) -> Rows:
    """How many items to fetch, so that k are left of what is not excluded and of a share that is allowed.

    Rounded up to a quarter of a power of two, so that there are few groups of queries; just k where nothing falls away.
    """
    if share <= 0:
        return np.full(len(gone), np.iinfo(np.int32).max, np.int64)
    expected = (k + gone) / share
    spare = _DEVIATIONS * np.sqrt(expected * (1 - share)) / share
    needed = np.minimum(expected + spare, np.iinfo(np.int32).max)
    step = 2.0 ** np.maximum(np.floor(np.log2(needed)) - 2, 0)
    return np.where(needed > k, np.ceil(needed / step) * step, k).astype(np.int64)


def _fetched(
    searcher: Searcher,
    table: Floats,
    k: int,
    pending: Rows,
    fetch: Rows,
    gone: Excluded,
    allowed: Allowed | None,
    wanted: Rows,
    parts: list[tuple[Rows, Answers]],
) -> Rows:
    """Adds the answers of the pending queries that fetching was enough for; returns the others."""
    short = [np.empty(0, np.int64)]
    for level in np.unique(fetch[pending]):
        asked = pending[fetch[pending] == level]
        found = searcher.search(table[asked], int(level))
        kept = ~gone.take(asked).hits(found.rows)
        if allowed is not None:
            kept &= allowed.mask[found.rows]
        enough = np.count_nonzero(kept, axis=1) >= wanted[asked]
        short.append(asked[~enough])
        answers = Answers.first(k, kept[enough], found.rows[enough], found.scores[enough], searcher.items)
        parts.append((asked[enough], answers))
    return np.sort(np.concatenate(short))


def _merged(parts: list[tuple[Rows, Answers]], num_queries: int, searcher: Searcher) -> Answers:
    """Answers to groups of queries, in the order of the queries."""
    if len(parts) == 1:
        return parts[0][1]
    counts = np.zeros(num_queries, np.int64)
    for queries, answers in parts:
        counts[queries] = np.diff(answers.offsets)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    rows, scores = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32)
    for queries, answers in parts:
        places = np.repeat(offsets[queries] - answers.offsets[:-1], counts[queries]) + np.arange(len(answers.rows))
        rows[places], scores[places] = answers.rows, answers.scores
    return Answers(offsets, rows, scores, searcher.items)
