"""Selects the training rows of each epoch, and computes their weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from twotower_tf.config import SamplingConfig
from twotower_tf.errors import DataError
from twotower_tf.sampling.pairs import Ints
from twotower_tf.sampling.row_sampler import Floats
from twotower_tf.tables.timestamps import SECONDS_PER_DAY


class EpochSelection:
    """Selects the rows of every epoch: all rows, or a sample of constant size.

    Every positive has a probability of being kept: that of `Downsample`, scaled down for users who would keep more than
    `per_user` positives. The positives of an epoch are a systematic sample with these probabilities (Madow, 1949): with
    the rows shuffled within their group, a row is kept if the cumulative probability crosses u + n for an integer n,
    where u is uniform in [0, 1). So every row is kept with exactly its probability; the rows kept of an item (with
    `per_user`, of a user) and of the epoch deviate from their expected number by less than one; and no user keeps more
    than `per_user`.

    Attributes:
        rows: `[n]` int64, the rows of the training split that an epoch may have, ascending.
        size: rows per epoch; some epochs draw one more.
        share: `[num_items]` float64, the share of each item among the positives of an epoch: the probability that it is
            a row's own item, as needed by the logQ correction of in-batch candidates. With `prepare --since` it counts
            the new rows only.
    """

    def __init__(
        self, sampling: SamplingConfig, users: Ints, items: Ints, label: Ints, num_items: int, *, labelled: bool
    ) -> None:
        """Computes the probabilities from the training split's user rows, catalogue rows and labels, `[rows]` each.

        With `labelled` an epoch has all rows with label 0 as well.
        """
        self._positives = np.flatnonzero(label == 1)
        self._others = np.flatnonzero(label != 1) if labelled else np.empty(0, np.int64)
        self.rows = np.arange(len(label)) if labelled else self._positives
        self._kept: Floats | None = None
        users, items = users[self._positives], items[self._positives]
        counts: Floats = np.bincount(items, minlength=num_items).astype(np.float64)
        if sampling.downsample is not None:
            self._kept = compute_kept_share(counts, sampling.downsample.t)[items]
        if sampling.per_user:
            kept = np.ones(len(users)) if self._kept is None else self._kept
            per_user = np.bincount(users, kept)
            self._kept = kept * np.minimum(1.0, sampling.per_user / np.maximum(per_user, 1e-12))[users]
        if self._kept is not None:
            counts = np.bincount(items, self._kept, num_items).astype(np.float64)
            self._group = users if sampling.per_user else items
        self.size = int(np.floor(counts.sum() + 1e-6)) + len(self._others)
        self.share: Floats = counts / max(counts.sum(), 1e-12)

    def epoch(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Returns the rows of an epoch in random order."""
        if self._kept is None:
            return rng.permutation(self.rows)
        shuffled = rng.permutation(len(self._positives))
        order = shuffled[np.argsort(self._group[shuffled], kind="stable")]
        marks = np.floor(np.cumsum(self._kept[order]) + rng.random())
        touched = np.diff(marks, prepend=0.0) > 0
        return rng.permutation(np.concatenate([self._positives[order[touched]], self._others]))


def compute_kept_share(counts: Floats, t: float) -> Floats:
    """Computes the probability of keeping an item's positives: min(1, (sqrt(z / t) + 1) · t / z), z being its share.

    This is the subsampling of frequent words in word2vec's code (Mikolov et al., 2013, give a variant in section 2.3).
    `counts`, `[num_items]`, are the positives of each item among the rows to choose from, without those of earlier
    runs: the rule bounds the share of an item in an epoch.
    """
    share = counts / max(counts.sum(), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = (np.sqrt(share / t) + 1.0) * t / share
    return np.where(share > 0, np.minimum(kept, 1.0), 1.0)


def weigh_rows(keys: Mapping[str, npt.NDArray[np.generic]], half_life: float) -> npt.NDArray[np.float32] | None:
    """Computes the weight of every training row: that of `data.weight`, halved with every half-life of age.

    A row without a time has an unknown age, so its factor is the mean of those of the rows with a time.

    Args:
        keys: key columns of the split: `timestamp` (seconds, 0 for no time), and `weight` if the data have one.
        half_life: days; 0 ignores the age. Age is counted from the newest row.

    Returns:
        `[rows]` float32, or None if all weights are 1.

    Raises:
        DataError: if all weights are 0, or no row has a time.
    """
    weights: Floats | None = None
    if "weight" in keys:
        weights = keys["weight"].astype(np.float64)
    if half_life:
        recency = _compute_recency(keys["timestamp"], half_life)
        weights = recency if weights is None else weights * recency
    if weights is None:
        return None
    if not weights.any():
        raise DataError("data.weight: every training row has weight 0 (expected at least one positive weight)")
    return weights.astype(np.float32)


def _compute_recency(timestamp: npt.NDArray[np.generic], half_life: float) -> Floats:
    timed = timestamp != 0
    if not timed.any():
        raise DataError(
            f"sampling.recency_half_life: invalid value {half_life:g} for a log without times (no training row has "
            "one); name the column in data.timestamp, or set it to 0"
        )
    times = timestamp[timed].astype(np.float64)
    factors: Floats = np.empty(len(timestamp))
    factors[timed] = 0.5 ** ((times.max() - times) / (SECONDS_PER_DAY * half_life))
    factors[~timed] = factors[timed].mean()
    return factors


def describe_untimed(timestamp: npt.NDArray[np.generic], half_life: float) -> str:
    """Formats a note on how `weigh_rows` weights rows without a time; "" if there are none."""
    missing = int(np.count_nonzero(timestamp == 0))
    if not half_life or not missing:
        return ""
    factor = _compute_recency(timestamp, half_life)[timestamp == 0][0]
    return (
        f"sampling.recency_half_life: {missing:,} of {len(timestamp):,} training rows have no time; each gets the "
        f"factor {factor:.3g}, the mean of the others"
    )
