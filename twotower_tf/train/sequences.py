"""Windows of the users' sequences: training rows that stand for all events in them.

An event's history ends at a place of its user's sequence of positives, the newest that is earlier than the event. A
window is up to `length` places of one sequence, and the events whose histories end there. A causal encoder reads the
window once; its vector at an event's place is the history of that event as far as the window has it. With a window
that begins where the user's sequence does, that is the whole history, as with rows of events; later windows of users
with more than `length` positives begin within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.errors import DataError
from twotower_tf.sampling.pairs import Ints
from twotower_tf.train.batches_of_near import batches_of_near


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one batch.

    Attributes:
        first: `[windows]`, where each begins in the array of all sequences.
        stop: `[windows]`, its end (exclusive); equal to `first` where no event has a history.
        window: `[rows]` of the batch, the place of each row's window in the batch.
        seen: `[rows]`, how many of the window's places are in the row's history.
    """

    first: Ints
    stop: Ints
    window: Ints
    seen: Ints


@dataclass(frozen=True)
class WindowEpoch:
    """The windows of an epoch in their order.

    Attributes:
        rows: `[n]` rows of the training split, window by window and in the order of the log within each.
        bounds: `[windows + 1]`, where each window's rows begin in `rows`.
        first: `[windows]`, see `WindowBatch`.
        stop: `[windows]`, see `WindowBatch`.
        seen: `[n]`, see `WindowBatch`.
    """

    rows: Ints
    bounds: Ints
    first: Ints
    stop: Ints
    seen: Ints

    def batch(self, begin: int, end: int) -> WindowBatch:
        """Returns windows `begin` to `end` as a batch."""
        rows = slice(self.bounds[begin], self.bounds[end])
        window = ragged.to_rows(np.diff(self.bounds[begin : end + 1]))
        return WindowBatch(self.first[begin:end], self.stop[begin:end], window, self.seen[rows])


class Windows:
    """Cuts the sequences of all users that have training rows.

    A user whose rows' places span at most `length` has one window, which ends at the newest of them and begins up to
    `length` places earlier: with `prepare --since` it reaches back to positives of earlier runs. The others have as few
    windows as possible, next to each other; where they are cut is random in every epoch, as far as their number allows.

    Attributes:
        count: windows per epoch.
    """

    def __init__(self, keys: Mapping[str, npt.NDArray[np.generic]], rows: Ints, length: int) -> None:
        """Counts the windows.

        Args:
            keys: key columns of the training split: `user_row`, `history_start`, `history_end`.
            rows: `[n]` of the split that an epoch may have, ascending.
            length: places of a window.

        Raises:
            DataError: where no row has a history.
        """
        start, end = (keys[name][rows].astype(np.int64) for name in ("history_start", "history_end"))
        if (start == end).all():
            raise DataError(
                "train.rows: invalid value 'sequence' for a log in which no training event has an earlier positive of "
                "its user (expected users with at least two positives, at different times); use a feature other than "
                "History, or a longer log"
            )
        self._length = length
        self._rows = rows
        self._start, self._end = start, end
        _, self._user = np.unique(keys["user_row"][rows], return_inverse=True)
        users = int(self._user.max()) + 1
        # The newest and the oldest place that a history ends at, by user.
        self._last = np.full(users, -1, np.int64)
        np.maximum.at(self._last, self._user, end - 1)
        oldest = self._last.copy()
        some = end > start
        np.minimum.at(oldest, self._user[some], end[some] - 1)
        spans = self._last - oldest + 1
        self._counts = np.maximum(1, -(-spans // length))
        self._slack = np.where(self._counts > 1, self._counts * length - spans, 0)
        self._offsets = np.cumsum(self._counts) - self._counts
        self.count = int(self._counts.sum())

    def epoch(
        self, chosen: Ints, rng: np.random.Generator, size: int, times: npt.NDArray[np.generic] | None = None
    ) -> WindowEpoch:
        """Cuts the sequences and arranges the windows in batches, which are in random order.

        A batch has windows of about one length, so that little of it is padding; with `times`, of about one time.

        Args:
            chosen: distinct rows of the training split, some of the constructor's, that the epoch trains on.
            rng: generator of the random numbers.
            size: windows of a batch; fewer that fill no batch are left out.
            times: `[rows of the split]`, of which the newest of a window counts.
        """
        at = np.searchsorted(self._rows, np.sort(chosen))
        user, end, start = self._user[at], self._end[at], self._start[at]
        top = self._last + rng.integers(0, self._slack + 1)  # the newest place of each user's newest window
        back = np.where(end > start, (top[user] - (end - 1)) // self._length, self._counts[user] - 1)
        window = self._offsets[user] + back
        begin = np.maximum(top[user] - (back + 1) * self._length + 1, start)  # the same for all rows of a window
        seen = np.where(end > start, end - begin, 0)
        near = np.zeros(self.count, np.int64)
        np.maximum.at(near, window, seen if times is None else times[self._rows[at]].astype(np.int64))
        shuffled = rng.permutation(self.count)
        order = batches_of_near(shuffled, near[shuffled], size, rng)
        rank = np.full(self.count, -1)
        rank[order] = np.arange(len(order))
        place = rank[window]
        arranged = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
        place = place[arranged]
        first, stop = np.zeros(len(order), np.int64), np.zeros(len(order), np.int64)
        first[place] = begin[arranged]
        np.maximum.at(stop, place, (begin + seen)[arranged])
        bounds = ragged.to_offsets(np.bincount(place, minlength=len(order)))
        return WindowEpoch(self._rows[at[arranged]], bounds, first, np.maximum(stop, first), seen[arranged])
