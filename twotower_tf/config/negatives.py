"""Checks that the configured negatives fit the loss and the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twotower_tf.config.data import DataConfig
from twotower_tf.config.features import BaseFeature, feature_columns
from twotower_tf.config.losses import LossConfig
from twotower_tf.config.sampling import SamplingConfig
from twotower_tf.errors import ConfigError, unknown_name

_WHERE = "sampling.negatives"
SHARED_KINDS = ("InBatch", "Queue", "Catalogue")  # candidates that the batch shares, whatever their fields
_OF_THE_CATALOGUE = ("item_id", "item_name", "train_count", "last_event")  # columns that every catalogue has


def check_sampling(
    sampling: SamplingConfig, loss: LossConfig, data: DataConfig, item_features: Sequence[BaseFeature]
) -> None:
    """Checks that the loss can use each kind of negatives, and that the data which it is taken from is there.

    Raises:
        ConfigError: naming the kind, and what it needs.
    """
    negatives = sampling.negatives or ()
    kinds: dict[str, Any] = {each.type: each for each in negatives}
    if len(kinds) != len(negatives):
        got = ", ".join(each.type for each in negatives)
        raise ConfigError(f"{_WHERE}: invalid kinds {got} (expected each kind once); combine them into one")
    if not kinds:
        raise ConfigError(f"{_WHERE}: invalid value () (expected at least one kind); use e.g. (Uniform(),), or None")
    _check_loss(loss, kinds)
    for each in kinds.values():
        _check_data(each, data, item_features)
    if sampling.recency_half_life and not data.timestamp:
        raise ConfigError("sampling.recency_half_life: needs the event's time; name its column in data.timestamp")
    if getattr(loss, "growing", False):
        _check_growing(loss, data)


def _check_growing(loss: LossConfig, data: DataConfig) -> None:
    if not data.timestamp:
        raise ConfigError("loss.growing: needs the events' times; name their column in data.timestamp")
    if not getattr(loss, "correct", True):
        raise ConfigError("loss.growing: needs the correction that it is part of; set loss.correct=True")


def _check_loss(loss: LossConfig, kinds: dict[str, Any]) -> None:
    """Compares the kinds with the requirements that the loss's class declares."""
    name = type(loss).__name__
    for kind, each in kinds.items():
        if not loss.shares_candidates and (kind in SHARED_KINDS or getattr(each, "shared", False)):
            got = f"{kind}(shared=True)" if hasattr(each, "shared") else f"{kind}()"
            raise ConfigError(
                f"{_WHERE}: invalid kind {got} for {name} (expected a row's own negatives or Labelled() rows, not "
                "candidates that the batch shares)"
            )
    if "Labelled" in kinds and not loss.labelled:
        raise ConfigError(
            f"{_WHERE}: invalid kind Labelled() for {name}, which compares a positive with its negatives; use "
            "Rejections() instead"
        )
    for kind in loss.needs:
        if kind not in kinds:
            raise ConfigError(f"{_WHERE}: invalid kinds {list(kinds)} (expected {kind}(), which {name} needs); add it")
    if "Catalogue" in kinds and len(kinds) > 1:
        raise ConfigError(
            f"{_WHERE}: invalid kinds {list(kinds)} (expected Catalogue() alone, which has every item); remove the "
            "others"
        )
    if "Queue" in kinds and "InBatch" not in kinds:
        raise ConfigError(
            f"{_WHERE}: invalid kinds {list(kinds)} (expected InBatch() together with Queue(), whose items have no "
            "gradient); add it"
        )


def _check_data(kind: Any, data: DataConfig, item_features: Sequence[BaseFeature]) -> None:
    if kind.type in ("Labelled", "Rejections", "SkipAbove") and not (data.label or data.positive):
        raise ConfigError(
            f"{_WHERE}: {kind.type}() needs rows that are not positive: set data.label, the column with 0 and 1, "
            "or data.positive"
        )
    if kind.type == "Rejections" and kind.explicit and not data.rejected:
        raise ConfigError(f"{_WHERE}: Rejections(explicit=True) needs data.rejected, the column of refused items")
    if kind.type == "SkipAbove" and not (data.list_id and data.position):
        raise ConfigError(f"{_WHERE}: SkipAbove() needs data.list_id and data.position, the columns of list and place")
    if kind.type == "Mined" and kind.ranks[0] > kind.ranks[1]:
        raise ConfigError(f"{_WHERE}: Mined: invalid ranks {kind.ranks} (expected the smaller rank first)")
    if kind.type == "SameAttribute" and not data.items:  # an item table may have more columns than the features name
        known = {column for feature in item_features for column in feature_columns(feature)}
        for name in kind.columns:
            if name not in known | {*_OF_THE_CATALOGUE}:
                raise ConfigError(
                    f"{_WHERE}: SameAttribute: {unknown_name('column of the catalogue', name, known)} "
                    "(without data.items it has the columns of item_features)"
                )
