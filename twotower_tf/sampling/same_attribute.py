"""Draws hard negatives that share an attribute with the positive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf.sampling.pairs import Ints, Items, Mask, Pairs
from twotower_tf.sampling.row_sampler import PositivesBatch, draw_allowed

NO_GROUP = -1


class SameAttributeSampler:
    """Draws uniformly from the items of the positive's group that are not training positives of the user.

    p(j) = 1 / (items of the group - the user's positives among them).
    """

    def __init__(self, positives: Pairs, groups: Ints) -> None:
        """Sorts the catalogue by the group number of each item, `[num_items]`, -1 for none."""
        self._positives = positives
        self._group = groups
        grouped = np.flatnonzero(groups >= 0)
        self._count = int(groups.max(initial=NO_GROUP)) + 1
        self._members = Pairs(groups[grouped], grouped, self._count, len(groups))
        of_positive = groups[positives.items]
        known = of_positive >= 0
        taken = positives.owners()[known] * self._count + of_positive[known]
        self._taken, self._taken_count = np.unique(taken, return_counts=True)

    def _left(self, rows: PositivesBatch) -> npt.NDArray[np.int64]:
        """Returns the number of items of the group that are not positives of the user, `[batch]`."""
        group = self._group[rows.own]
        if not len(self._taken):
            return np.zeros(len(rows), np.int64)
        keys = rows.users.astype(np.int64) * self._count + group
        places = np.minimum(np.searchsorted(self._taken, keys), len(self._taken) - 1)
        taken = np.where(self._taken[places] == keys, self._taken_count[places], 0)
        return np.where(group >= 0, self._members.counts[group] - taken, 0)

    def available(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`."""
        return self._left(rows) > 0

    def draw(self, rng: np.random.Generator, rows: PositivesBatch, draws: int) -> Items:
        """See `RowSampler`."""
        group = self._group[rows.own]
        starts, sizes = self._members.starts[group], self._members.counts[group]

        def propose(places: Ints) -> Ints:
            proposed: Items = self._members.items[starts[places] + rng.integers(0, sizes[places])]
            return proposed

        def choose(place: int, number: int) -> Ints:
            members = self._members.of(int(group[place]))
            return rng.choice(members[~self._positives.contain(rows.users[place : place + 1], members)], number)

        return draw_allowed(self._positives, rows.users, draws, propose, choose)

    def drawable(self, rows: PositivesBatch) -> Mask:
        """See `RowSampler`: the members of the positives' groups."""
        met = np.zeros(self._count, bool)
        groups = self._group[rows.own]
        met[groups[groups >= 0]] = True
        members = np.zeros(len(self._group), bool)
        members[self._members.items[np.repeat(met, self._members.counts)]] = True
        return members


def number_groups(items: pa.Table, columns: tuple[str, ...]) -> np.ndarray:
    """Numbers the distinct combinations of values of some columns of the catalogue, from 0: `[num_items]` int64.

    A row without a value (null, empty text, NaN) in any of them has no group, -1.
    """
    groups = np.zeros(items.num_rows, np.int64)
    missing = np.zeros(items.num_rows, bool)
    for name in columns:
        column = items[name].combine_chunks()
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pa.array([None if value is None else "\0".join(map(str, value)) for value in column.to_pylist()])
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        values = encoded.dictionary
        empty = pc.index(values, pa.scalar("", values.type)).as_py() if pa.types.is_string(values.type) else -1
        missing |= (codes < 0) | ((codes == empty) & (empty >= 0))
        _, groups = np.unique(groups * (len(values) + 1) + codes, return_inverse=True)
    _, dense = np.unique(groups[~missing], return_inverse=True)
    numbered = np.full(items.num_rows, NO_GROUP, np.int64)
    numbered[~missing] = dense
    return numbered
