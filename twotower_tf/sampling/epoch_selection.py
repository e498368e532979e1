"""Which rows are trained on in an epoch, and how much each of them counts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from twotower_tf.config import SamplingConfig
from twotower_tf.errors import DataError
from twotower_tf.sampling.pairs import Ints
from twotower_tf.sampling.row_sampler import Floats

_DAY = 86_400.0


class Selection:
    """The rows of every epoch: all of them, or a sample with the same number of rows each time.

    Every positive is given a probability of being kept: that of `Downsample`, for a user who would keep more than
    `per_user` lowered in proportion to what `per_user` allows. An epoch's positives are a systematic sample with these
    probabilities (Madow 1949): the rows, shuffled within their group, lie side by side, each as long as its
    probability, and those are kept that a ruler with marks at distance 1 and a random start touches. So every row is
    kept exactly as often as it should be, an item (with `per_user`, a user) keeps what it should to within one row, no
    user more than `per_user`, and the epoch's size is constant to within one row.

    Attributes:
        size: rows of an epoch; one more may be drawn in some.
        share: `[num_items]` float64, of the positives trained on in an epoch whose item it is. Where the preparation
            continues an earlier one these are the new rows: with this probability, and not with its share of all runs'
            positives, an item comes as a row's own item, which is what a correction of in-batch candidates needs.
    """

    def __init__(
        self, sampling: SamplingConfig, users: Ints, items: Ints, label: Ints, num_items: int, *, labelled: bool
    ) -> None:
        """Computes the probabilities.

        Args:
            sampling: what is asked for.
            users: `[rows]` user rows of the training split.
            items: `[rows]` catalogue rows.
            label: `[rows]`, 1 for positives.
            num_items: rows of the catalogue.
            labelled: takes rows with label 0 too, all of them.
        """
        self._positives = np.flatnonzero(label == 1)
        self._others = np.flatnonzero(label != 1) if labelled else np.empty(0, np.int64)
        self._rows = np.arange(len(label)) if labelled else self._positives
        self._kept: Floats | None = None
        users, items = users[self._positives], items[self._positives]
        counts: Floats = np.bincount(items, minlength=num_items).astype(np.float64)
        if sampling.downsample is not None:
            self._kept = keep_probability(counts, sampling.downsample.t)[items]
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
        """An epoch's rows in random order."""
        if self._kept is None:
            return rng.permutation(self._rows)
        shuffled = rng.permutation(len(self._positives))
        order = shuffled[np.argsort(self._group[shuffled], kind="stable")]
        marks = np.floor(np.cumsum(self._kept[order]) + rng.random())
        touched = np.diff(marks, prepend=0.0) > 0
        return rng.permutation(np.concatenate([self._positives[order[touched]], self._others]))


def keep_probability(counts: Floats, t: float) -> Floats:
    """Probability of keeping an item's positives: min(1, (sqrt(z / t) + 1) · t / z), z being its share of them all.

    The rule of word2vec's code for frequent words (Mikolov et al. 2013 give a variant in section 2.3).

    Args:
        counts: `[num_items]` positives of each item among the rows to choose from (not those of earlier runs): the
            rule bounds how much of an epoch one item is.
        t: share above which items are thinned out.
    """
    share = counts / max(counts.sum(), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = (np.sqrt(share / t) + 1.0) * t / share
    return np.where(share > 0, np.minimum(kept, 1.0), 1.0)


def row_weights(keys: Mapping[str, npt.NDArray[np.generic]], half_life: float) -> npt.NDArray[np.float32] | None:
    """Computes how much every row of the training split counts: its own weight, halved with every half-life of age.

    A row without a time has no age. It is neither new nor old, so its factor is the mean one of the rows with a time.

    Args:
        keys: of the split: `timestamp` (seconds, 0 where there is none), and `weight` where the data have one.
        half_life: days; 0 weighs all ages alike. Age is counted from the newest row.

    Returns:
        `[rows]` float32, or None where all count 1.

    Raises:
        DataError: where no row counts anything, or none has a time to weigh it by.
    """
    weights: Floats | None = None
    if "weight" in keys:
        weights = keys["weight"].astype(np.float64)
    if half_life:
        recency = _recency(keys["timestamp"], half_life)
        weights = recency if weights is None else weights * recency
    if weights is None:
        return None
    if not weights.any():
        raise DataError("every training row weighs 0; check data.weight")
    return weights.astype(np.float32)


def _recency(timestamp: npt.NDArray[np.generic], half_life: float) -> Floats:
    timed = timestamp != 0
    if not timed.any():
        raise DataError(
            f"sampling.recency_half_life: invalid value {half_life:g} for a log without times (no training row has "
            "one); name the column in data.timestamp, or set it to 0"
        )
    times = timestamp[timed].astype(np.float64)
    factors: Floats = np.empty(len(timestamp))
    factors[timed] = 0.5 ** ((times.max() - times) / (_DAY * half_life))
    factors[~timed] = factors[timed].mean()
    return factors


def describe_untimed(timestamp: npt.NDArray[np.generic], half_life: float) -> str:
    """Says in a line how rows without a time are weighed by `row_weights`; "" where there is nothing to say."""
    missing = int(np.count_nonzero(timestamp == 0))
    if not half_life or not missing:
        return ""
    factor = _recency(timestamp, half_life)[timestamp == 0][0]
    return (
        f"sampling.recency_half_life: {missing:,} of {len(timestamp):,} training rows have no time; each is weighed by "
        f"{factor:.3g}, the mean of the others"
    )
