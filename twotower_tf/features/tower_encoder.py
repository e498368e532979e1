"""Encodes a tower's raw inputs as the tensors that it reads: inputs, signature and encoding in one place.

`TowerEncoder.encode` runs inside the exported SavedModel. Preparation computes the same values without TensorFlow
(`array_encoders`), and a training compares them before it begins (`encoding_check`), so a value has one encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from twotower_tf.config import ExperimentConfig, History, feature_name
from twotower_tf.config.features import BaseFeature, SideName
from twotower_tf.config.history_encoders import is_causal
from twotower_tf.features import time_gaps
from twotower_tf.features.inputs import KINDS, side_inputs
from twotower_tf.features.layout import IDS, NO_VALUE, NUMERIC, Layout
from twotower_tf.features.types import build_encoder

FROM_ENCODED = "from_encoded"  # the user tower's signature that takes encoded tensors


def tensor_specs(layout: Layout) -> dict[str, tf.TensorSpec]:
    """Returns the specs of encoded tensors: `ids` int32 [B, C], `numeric` float32 [B, N], the others int32 [B, T]."""
    specs: dict[str, tf.TensorSpec] = {}
    if layout.single:
        specs[IDS] = tf.TensorSpec([None, len(layout.single)], tf.int32, IDS)
    if layout.numeric:
        specs[NUMERIC] = tf.TensorSpec([None, len(layout.numeric)], tf.float32, NUMERIC)
    lists = (*layout.values.values(), *layout.gaps.values())
    specs.update({key: tf.TensorSpec([None, None], tf.int32, key) for key in lists})
    return specs


class TowerEncoder:
    """Encodes the raw inputs of one tower's signature in this layout."""

    def __init__(self, config: ExperimentConfig, statistics: Mapping[str, Any], side: SideName) -> None:
        self.inputs = side_inputs(config, side)
        self.layout = Layout(config, side)
        self._timed = [each for each in self.layout.multivalued if isinstance(each, History) and each.time_gaps]
        self._encoders = {
            feature_name(each): build_encoder(each, statistics[side], config)
            for each in (*self.layout.single, *self.layout.numeric, *self.layout.multivalued)
        }

    def signature(self) -> dict[str, tf.TensorSpec]:
        """Returns the spec by input name: rank 1, or rank 2 for inputs of several values."""
        return {
            each.name: tf.TensorSpec([None] * KINDS[each.kind].rank, KINDS[each.kind].dtype, each.name)
            for each in self.inputs
        }

    def encode(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes raw inputs by name, of the signature's shapes, in TensorFlow operations alone.

        Returns:
            `ids` int32 `[batch, C]` with -1 for no value, `numeric` float32 `[batch, N]` with 0 for no value, and per
            feature of several values int32 `[batch, T]` padded with -1 under its key in `layout.values`, and of one
            with `time_gaps` the gaps' buckets under that in `layout.gaps`; only what the side has.
        """
        encoded: dict[str, tf.Tensor] = {}
        if self.layout.single:
            encoded[IDS] = tf.concat([self.encode_feature(each, raw) for each in self.layout.single], axis=1)
        if self.layout.numeric:
            encoded[NUMERIC] = tf.concat([self.encode_feature(each, raw) for each in self.layout.numeric], axis=1)
        for each in self.layout.multivalued:
            encoded[self.layout.values[feature_name(each)]] = self.encode_feature(each, raw)
        for history in self._timed:
            values, gaps = self.layout.values[history.name], self.layout.gaps[history.name]
            encoded[values], encoded[gaps] = _encode_gaps(history, encoded[values], raw)
        return encoded

    def encode_feature(self, feature: BaseFeature, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Encodes one feature from the inputs that it reads.

        Returns:
            Its part of `encode`: int32 `[batch, 1]` of `ids`, float32 `[batch, 1]` of `numeric`, or int32 `[batch, T]`.
        """
        return self._encoders[feature_name(feature)].encode(raw)


def _encode_gaps(history: History, ids: tf.Tensor, raw: Mapping[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the buckets of the gaps as `time_gaps.find_gaps` does.

    Args:
        history: with `time_gaps`.
        ids: int32 `[batch, length]`, -1 for no value, which keeps its place.
        raw: has the items' times, of any length, and the event's.

    Returns:
        ids and buckets, both int32 `[batch, at most history.length + 1]`: the last places that have a value, then -1.
    """
    width = tf.shape(ids)[1]
    times = raw[history.times_name]
    times = tf.pad(times, [[0, 0], [0, tf.maximum(width - tf.shape(times)[1], 0)]])[:, :width]
    until = tf.broadcast_to(raw[history.time_gaps][:, tf.newaxis], tf.shape(times))
    if is_causal(history.encoder):
        used = tf.logical_or(ids >= 0, tf.not_equal(times, 0))
        after = tf.cumsum(tf.cast(used, tf.int32), axis=1, exclusive=True, reverse=True)
        until = tf.where(after > 0, tf.pad(times[:, 1:], [[0, 0], [0, 1]])[:, :width], until)
    passed = tf.reshape(until - times, [-1])
    buckets = tf.reshape(tf.searchsorted(tf.constant(time_gaps.BOUNDS), passed, side="right"), tf.shape(times))
    gaps = tf.where(tf.not_equal(times, 0) & tf.not_equal(until, 0), buckets, NO_VALUE)
    kept = [tf.ragged.boolean_mask(each, ids >= 0)[:, -history.length :] for each in (ids, gaps)]
    values, found = (tf.pad(each.to_tensor(NO_VALUE), [[0, 0], [0, 1]], constant_values=NO_VALUE) for each in kept)
    return values, found
