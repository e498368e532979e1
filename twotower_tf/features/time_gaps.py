"""Divides the time that passed after an item of a history into buckets (`History.time_gaps`). Imports no TensorFlow.

Of n seconds the bucket is 0 where n is at most 0 (events of one second, or an item's time after the event's), else 1 +
floor(log2(n)), at most 31: 1 for one second, 2 for two and three, 12 for half an hour to an hour, 17 for about a day.
All is done in whole seconds, so that training, exported towers and clients have the same bucket whatever the sizes.
HSTU buckets the logarithm of gaps in the same way (Zhai et al., "Actions Speak Louder than Words", 2024).

An item without a time, or whose next time is missing, has no gap: it adds nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower_tf.features.layout import NO_VALUE

BUCKETS = 32
BOUNDS = 2 ** np.arange(BUCKETS - 1, dtype=np.int64)  # seconds: the least of bucket 1, 2, ...

Times = npt.NDArray[np.int64]


def find_gaps(times: Times, counts: npt.NDArray[np.integer], now: Times, *, to_next: bool) -> npt.NDArray[np.int32]:
    """Finds the buckets of padded histories.

    Args:
        times: `[n, length]` epoch seconds of the items, oldest first; 0 for no time and for padding.
        counts: `[n]` items of each.
        now: `[n]` epoch seconds of the events; 0 for no time.
        to_next: takes the time until the next item, and of the newest until the event; else until the event.

    Returns:
        int32 `[n, length]`, -1 for no gap.
    """
    until = np.broadcast_to(now[:, np.newaxis], times.shape)
    if to_next:
        until = until.copy()
        place = np.arange(times.shape[1] - 1)
        until[:, :-1] = np.where(place < counts[:, np.newaxis] - 1, times[:, 1:], until[:, :-1])
    return find_buckets(times, until)


def find_buckets(times: Times, until: Times) -> npt.NDArray[np.int32]:
    """Finds the buckets of the seconds from `times` to `until`, of one shape; -1 where one of both is 0."""
    with np.errstate(over="ignore"):
        passed = np.maximum(until - times, 0)
    # x = m 2^e with m from 0.5 to 1: the bucket is e, and that of 0 is 0; the rounding of large numbers is beyond 31
    buckets = np.minimum(np.frexp(passed.astype(np.float64))[1], BUCKETS - 1)
    return np.where((times != 0) & (until != 0), buckets, NO_VALUE).astype(np.int32)
