"""Finds accidental hits: candidates shared by the batch that are not negatives of a row."""

from __future__ import annotations

import numpy as np

from twotower_tf import ragged
from twotower_tf.sampling.pairs import Ints, Items, Pairs


def find_hits(positives: Pairs, users: Ints, columns: Ints) -> Items:
    """Finds the pairs of row and shared candidate whose item is a training positive of the row's user.

    The row's own item is one of them. The cost is proportional to the positives of the batch's distinct users and to
    the hits, not to rows times columns.

    Args:
        positives: training positives of every user.
        users: `[batch]` user rows.
        columns: `[columns]` catalogue rows of the shared candidates; -1 is an empty slot.

    Returns:
        `[hits, 2]` int32 (row, column), sorted by row.
    """
    order = np.argsort(columns, kind="stable")
    items, first, repeats = np.unique(columns[order], return_index=True, return_counts=True)
    real = items >= 0
    # By catalogue row: where an item's columns begin in `order`, and how many there are.
    begin, times = np.zeros(positives.num_items, np.int32), np.zeros(positives.num_items, np.int32)
    begin[items[real]], times[items[real]] = first[real], repeats[real]
    known, user_of = np.unique(users, return_inverse=True)
    counts = positives.counts[known]
    liked = positives.items[ragged.to_places(positives.starts[known], counts)]
    hit = np.flatnonzero(times[liked])  # few of them, so all arrays below are small
    liked = liked[hit]
    per_item = times[liked]
    met = order[ragged.to_places(begin[liked], per_item)].astype(np.int32)  # columns, user by user
    ends = np.append(0, np.cumsum(per_item))[np.searchsorted(hit, np.append(0, np.cumsum(counts)))]
    per_row = np.diff(ends)[user_of]
    found = np.empty((int(per_row.sum()), 2), np.int32)
    found[:, 0] = np.repeat(np.arange(len(users), dtype=np.int32), per_row)
    found[:, 1] = met[ragged.to_places(ends[:-1][user_of], per_row)]
    return found


def find_own_hits(own: Ints, columns: Ints) -> Items:
    """Finds the pairs of row and shared candidate whose item is the row's own, `[batch]`; see `find_hits`."""
    order = np.argsort(columns, kind="stable")
    first, end = (np.searchsorted(columns[order], own, side) for side in ("left", "right"))
    found = np.empty((int((end - first).sum()), 2), np.int32)
    found[:, 0] = np.repeat(np.arange(len(own), dtype=np.int32), end - first)
    found[:, 1] = order[ragged.to_places(first, end - first)]
    return found
