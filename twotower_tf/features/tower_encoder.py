"""One source for everything a tower reads: inputs, signature, and the encoding the towers start from.

The same `Side.encode` runs when training data are prepared and inside the exported SavedModel, so a value has one
encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from twotower_tf.config import ExperimentConfig, Numeric, feature_name
from twotower_tf.features import tf_columns
from twotower_tf.features.inputs import IDS, NUMERIC, SideName, is_multivalued, side_features, side_inputs, values_keys

FROM_ENCODED = "from_encoded"  # the user tower's signature that takes encoded tensors

_DTYPES = {"text": tf.string, "texts": tf.string, "number": tf.float32, "time": tf.int64}


class Layout:
    """How one side's features lie in the encoded tensors.

    Attributes:
        single: categorical features with one value, in the order of the columns of `ids`.
        numeric: Numeric features, in the order of the columns of `numeric`.
        multivalued: Tags and History features; each is a tensor of its own.
        values: names of the multivalued features to the keys of their tensors, see `values_keys`.
    """

    def __init__(self, config: ExperimentConfig, side: SideName) -> None:
        features = side_features(config, side)
        self.side = side
        self.numeric = [each for each in features if isinstance(each, Numeric)]
        self.multivalued = [each for each in features if is_multivalued(each)]
        self.single = [each for each in features if each not in self.numeric and each not in self.multivalued]
        self.values = values_keys(config, side)

    def names(self) -> list[str]:
        """Keys of the encoded tensors: `ids`, `numeric`, `values0`, `values1`, ..., those that the side has."""
        return [IDS] * bool(self.single) + [NUMERIC] * bool(self.numeric) + list(self.values.values())

    def tensor_specs(self) -> dict[str, tf.TensorSpec]:
        """Specs by key: `ids` int32 [B, C], `numeric` float32 [B, N], the others int32 [B, T]."""
        specs: dict[str, tf.TensorSpec] = {}
        if self.single:
            specs[IDS] = tf.TensorSpec([None, len(self.single)], tf.int32, IDS)
        if self.numeric:
            specs[NUMERIC] = tf.TensorSpec([None, len(self.numeric)], tf.float32, NUMERIC)
        specs.update({key: tf.TensorSpec([None, None], tf.int32, key) for key in self.values.values()})
        return specs


class Side:
    """One tower's reading side.

    Attributes:
        inputs: of the signature.
        layout: of the encoded tensors.
    """

    def __init__(self, config: ExperimentConfig, statistics: Mapping[str, Any], side: SideName) -> None:
        self.inputs = side_inputs(config, side)
        self.layout = Layout(config, side)
        self._statistics = statistics[side]
        self._columns = {
            feature_name(each): tf_columns.categorical(each, self._statistics, config)
            for each in (*self.layout.single, *self.layout.multivalued)
        }

    def signature(self) -> dict[str, tf.TensorSpec]:
        """Input name to spec: rank 1, or rank 2 for inputs of several values."""
        return {
            each.name: tf.TensorSpec([None, None] if each.kind == "texts" else [None], _DTYPES[each.kind], each.name)
            for each in self.inputs
        }

    def encode(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Raw inputs to encoded tensors, in TensorFlow operations alone.

        Args:
            raw: by input name, of the signature's shapes.

        Returns:
            `ids` int32 `[batch, C]` with -1 for no value, `numeric` float32 `[batch, N]` with 0 for no value, and per
            feature of several values int32 `[batch, T]` padded with -1 under its `values` key; only what the side has.
        """
        encoded: dict[str, tf.Tensor] = {}
        if self.layout.single:
            encoded[IDS] = tf.concat([self.encode_feature(each, raw) for each in self.layout.single], axis=1)
        if self.layout.numeric:
            encoded[NUMERIC] = tf.concat([self.encode_feature(each, raw) for each in self.layout.numeric], axis=1)
        for each in self.layout.multivalued:
            encoded[self.layout.values[feature_name(each)]] = self.encode_feature(each, raw)
        return encoded

    def encode_feature(self, feature: Any, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """One feature's part of `encode`, from the inputs that it reads.

        Returns:
            Its columns: int32 `[batch, 1]` of `ids`, float32 `[batch, 1]` of `numeric`, or int32 `[batch, T]`.
        """
        if isinstance(feature, Numeric):
            return self._standardize(feature, raw)[:, tf.newaxis]
        return tf_columns.bucket_ids(feature, self._columns[feature_name(feature)], raw)

    def _standardize(self, feature: Numeric, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        value = raw[feature.column]
        present = tf.math.is_finite(value)
        value = tf.where(present, value, 0.0)
        if feature.transform == "log1p":
            value = tf.sign(value) * tf.math.log1p(tf.abs(value))
        if feature.transform != "none":
            known = self._statistics[feature_name(feature)]
            value = (value - tf.constant(known["mean"], tf.float32)) / tf.constant(known["std"], tf.float32)
        return tf.where(present, value, 0.0)
