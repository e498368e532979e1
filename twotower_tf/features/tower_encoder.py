"""Encodes a tower's raw inputs as the tensors that it reads: inputs, signature and encoding in one place.

`TowerEncoder.encode` runs inside the exported SavedModel. Preparation computes the same values without TensorFlow
(`array_encoders`), and a training compares them before it begins (`encoding_check`), so a value has one encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from twotower_tf.config import ExperimentConfig, feature_name
from twotower_tf.config.features import BaseFeature, SideName
from twotower_tf.features.inputs import KINDS, side_inputs
from twotower_tf.features.layout import IDS, NUMERIC, Layout
from twotower_tf.features.types import build_encoder

FROM_ENCODED = "from_encoded"  # the user tower's signature that takes encoded tensors


def tensor_specs(layout: Layout) -> dict[str, tf.TensorSpec]:
    """Returns the specs of encoded tensors: `ids` int32 [B, C], `numeric` float32 [B, N], the others int32 [B, T]."""
    specs: dict[str, tf.TensorSpec] = {}
    if layout.single:
        specs[IDS] = tf.TensorSpec([None, len(layout.single)], tf.int32, IDS)
    if layout.numeric:
        specs[NUMERIC] = tf.TensorSpec([None, len(layout.numeric)], tf.float32, NUMERIC)
    specs.update({key: tf.TensorSpec([None, None], tf.int32, key) for key in layout.values.values()})
    return specs


class TowerEncoder:
    """Encodes the raw inputs of one tower's signature in this layout."""

    def __init__(self, config: ExperimentConfig, statistics: Mapping[str, Any], side: SideName) -> None:
        self.inputs = side_inputs(config, side)
        self.layout = Layout(config, side)
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
            feature of several values int32 `[batch, T]` padded with -1 under its key in `layout.values`; only what the
            side has.
        """
        encoded: dict[str, tf.Tensor] = {}
        if self.layout.single:
            encoded[IDS] = tf.concat([self.encode_feature(each, raw) for each in self.layout.single], axis=1)
        if self.layout.numeric:
            encoded[NUMERIC] = tf.concat([self.encode_feature(each, raw) for each in self.layout.numeric], axis=1)
        for each in self.layout.multivalued:
            encoded[self.layout.values[feature_name(each)]] = self.encode_feature(each, raw)
        return encoded

    def encode_feature(self, feature: BaseFeature, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Encodes one feature from the inputs that it reads.

        Returns:
            Its part of `encode`: int32 `[batch, 1]` of `ids`, float32 `[batch, 1]` of `numeric`, or int32 `[batch, T]`.
        """
        return self._encoders[feature_name(feature)].encode(raw)
