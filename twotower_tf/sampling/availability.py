"""Estimates for how much of the training positives each item was in the log.

The softmax over the items that are there at time t has Σ_j [t ≥ b_j] exp z_j below the fraction, where b_j is when
item j was added. With a_j, the share of the positives from b_j on, the mean of this sum over the rows is
Σ_j a_j exp z_j: an item that was there for a tenth of the rows is a negative a tenth as much. So ln a_j is added to
logits in training, next to the correction for sampling probabilities, and the model learns how often an item is taken
while it is there, which is what counts when it is recommended. Without it an item of the last day has the popularity of
the whole log.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from twotower_tf.sampling.pairs import Ints
from twotower_tf.sampling.row_sampler import Floats


def compute_log_availability(
    keys: Mapping[str, npt.NDArray[np.generic]],
    num_items: int,
    train_count: Ints,
    weights: npt.NDArray[np.float32] | None = None,
) -> Floats:
    """Computes ln a_j of each item.

    When an item was added is estimated from its n events in the training split, of any label: its first one minus the
    mean gap (last row of the split - first event of the item) / n. The first of n times drawn uniformly is late by such
    a gap in the mean. Rows without a time do not count; an item that has no others was there from the start.

    Args:
        keys: key columns of the training split: item_row, label, timestamp (seconds, 0 for no time), `[rows]` each.
        num_items: size of the catalogue.
        train_count: training positives of each item, `[num_items]`, those of earlier runs (`prepare --since`) included;
            an item that an earlier run had was there from the start.
        weights: of the training rows, `[rows]`; None weighs all alike.

    Returns:
        `[num_items]` float64, at most 0; -inf for an item without a training positive, which is not a negative.
    """
    positive, items, times = keys["label"] == 1, keys["item_row"].astype(np.int64), keys["timestamp"].astype(np.float64)
    added, timed = np.full(num_items, np.inf), times > 0
    np.minimum.at(added, items[timed], times[timed])
    events = np.bincount(items[timed], minlength=num_items)
    added -= (times.max(initial=0.0) - added) / np.maximum(events, 1)
    earlier = train_count > np.bincount(items[positive], minlength=num_items)
    added[earlier | (events == 0)] = -np.inf
    counted = positive & timed
    order = np.argsort(times[counted])
    ones = np.ones(len(order)) if weights is None else weights[counted][order].astype(np.float64)
    before = np.concatenate([[0.0], np.cumsum(ones)])  # weight of the positives before each one, by time
    share = 1.0 - before[np.searchsorted(times[counted][order], added)] / max(before[-1], 1e-12)
    logs: Floats = np.log(np.maximum(share, 1.0 / max(len(order), 1)))  # rounding, and rows that weigh nothing
    return np.where(train_count > 0, logs, -np.inf)
