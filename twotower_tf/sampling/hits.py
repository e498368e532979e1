"""Accidental hits: candidates of the whole batch that are no negatives of a row."""

from __future__ import annotations

import numpy as np

from twotower_tf.sampling.pairs import Ints, Items, Pairs, ranges


def accidental(positives: Pairs, users: Ints, columns: Ints) -> Items:
    """Finds where a column's item is a training positive of a row's user, the row's own item among them.

    The cost is the number of the batch's distinct users' positives and of the hits, not rows times columns.

    Args:
        positives: of every user.
        users: `[batch]` user rows.
        columns: `[columns]` catalogue rows; -1 is no item.

    Returns:
        `[hits, 2]` int32 (row, column), sorted by row, then column.
    """
    known, user_of = np.unique(users, return_inverse=True)
    counts = positives.counts[known]
    items = positives.items[ranges(positives.starts[known], counts)]
    asked = np.zeros(positives.num_items, bool)
    asked[columns[columns >= 0]] = True
    at = np.flatnonzero(asked[items])
    owner, items = np.repeat(np.arange(len(known)), counts)[at], items[at]
    order = np.argsort(columns, kind="stable")
    first = np.searchsorted(columns[order], items)
    repeats = np.searchsorted(columns[order], items, side="right") - first
    met = order[ranges(first, repeats)]  # columns, user by user
    owner = np.repeat(owner, repeats)
    within = np.argsort(owner * max(len(columns), 1) + met)
    met, per_user = met[within].astype(np.int32), np.bincount(owner, minlength=len(known))
    starts = (np.cumsum(per_user) - per_user)[user_of]
    found = np.empty((int(per_user[user_of].sum()), 2), np.int32)
    found[:, 0] = np.repeat(np.arange(len(users), dtype=np.int32), per_user[user_of])
    found[:, 1] = met[ranges(starts, per_user[user_of])]
    return found
