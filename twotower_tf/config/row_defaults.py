"""Defaults that follow from the kind of training rows, `train.rows`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from twotower_tf.config import checks
from twotower_tf.config.features import BaseFeature
from twotower_tf.config.sampling import SamplingConfig
from twotower_tf.config.training import TrainConfig

# A window holds up to `History.length` events. A next-item model learns to rank the next item above what the user takes
# later, hence "row".
_BATCH_SIZE = {"event": 4096, "sequence": 64, "user": 256}
_MASKED = {"event": "user", "sequence": "row", "user": "user"}


def fill_in(
    sampling: SamplingConfig, train: TrainConfig, user_features: Sequence[BaseFeature]
) -> tuple[SamplingConfig, TrainConfig]:
    """Fills in `train.rows`, `train.batch_size` and `sampling.masked` where they are None."""
    rows = train.rows or checks.choose_rows(user_features)
    train = dataclasses.replace(train, rows=rows, batch_size=train.batch_size or _BATCH_SIZE[rows])
    return _with_masked(sampling, sampling.masked or _MASKED[rows]), train


def clear(
    sampling: SamplingConfig,
    train: TrainConfig,
    before: str,
    user_features: Sequence[BaseFeature],
    given: Collection[str],
) -> tuple[SamplingConfig, TrainConfig]:
    """Sets the fields to None that have the values which `fill_in` gives them, but for those in `given`.

    Args:
        sampling: of a resolved configuration, maybe with changes.
        train: likewise.
        before: `train.rows` before the changes.
        user_features: those before the changes.
        given: dotted names of the fields that the changes set.
    """
    set_train = "train" in given
    if not set_train and "train.batch_size" not in given and train.batch_size == _BATCH_SIZE[before]:
        train = dataclasses.replace(train, batch_size=None)
    if not {"sampling", "sampling.masked"} & set(given) and sampling.masked == _MASKED[before]:
        sampling = _with_masked(sampling, None)
    if not set_train and "train.rows" not in given and train.rows == checks.choose_rows(user_features):
        train = dataclasses.replace(train, rows=None)
    return sampling, train


def _with_masked(sampling: SamplingConfig, masked: Any) -> SamplingConfig:
    return dataclasses.replace(sampling, masked=masked)
