"""Registers what each feature type computes: `tf.feature_column` columns and their bucket ids, or numbers.

The configuration's half of a type (its columns, kind of input, number of buckets) is a class under
`twotower_tf.config.features.feature_type`. This is TensorFlow's half; a type of your own is registered from any module:

    @encodes(Prefix)
    class PrefixEncoder(FeatureEncoder[Prefix]):
        def build_column(self):
            return tf.feature_column.categorical_column_with_hash_bucket(self.feature.column, self.feature.buckets)

        def encode(self, raw):
            text = raw[self.feature.column]
            return self.look_up({self.feature.column: tf.strings.substr(text, 0, self.feature.length)}, text)

`encode` runs inside the exported SavedModel and when data are prepared, so it has to be made of TensorFlow's own
operations, and a value's encoding has to depend on that value alone. Of the types here, preparation computes the same
without loading TensorFlow (`array_encoders`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from twotower_tf.config import (
    Bucketized,
    Cross,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    Numeric,
    Tags,
    Weekday,
    feature_name,
)
from twotower_tf.config.features import BaseFeature
from twotower_tf.errors import ConfigError
from twotower_tf.features.inputs import EPOCH_WEEKDAY, KINDS, arrow_to_array, history_target
from twotower_tf.features.layout import NO_VALUE
from twotower_tf.tables.timestamps import SECONDS_PER_DAY, SECONDS_PER_HOUR

F = TypeVar("F", bound=BaseFeature)
Raw = Mapping[str, tf.Tensor]


class FeatureEncoder(Generic[F]):
    """Encodes one feature.

    Attributes:
        feature: the configured feature.
        statistics: what `prepare` computed of its column, see `BaseFeature.statistics`.
        config: the experiment.
        column: the categorical `tf.feature_column` column, or None.
    """

    def __init__(self, feature: F, statistics: Mapping[str, Any], config: ExperimentConfig) -> None:
        self.feature = feature
        self.statistics = statistics
        self.config = config
        self.column = self.build_column()

    def build_column(self) -> Any:
        """Returns the categorical column; None, the default, for a feature that has none."""
        return None

    def encode(self, raw: Raw) -> tf.Tensor:
        """Encodes a batch.

        Args:
            raw: inputs by name, `[batch]`, or `[batch, length]` of kind "texts".

        Returns:
            int32 `[batch, 1]` (`[batch, length]`) bucket ids below `id_range`, -1 where a value is missing; of a
            numeric feature float32 `[batch, 1]`, 0 where it is missing.
        """
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def look_up(self, values: Raw, like: tf.Tensor) -> tf.Tensor:
        """Returns the column's bucket ids of `values` as int32 of the shape of `like` (`[batch]` becomes `[batch, 1]`).

        An empty text has none, -1.
        """
        cache = tf.__internal__.feature_column.FeatureTransformationCache(dict(values))
        sparse = self.column.get_sparse_tensors(cache, None).id_tensor
        shape = tf.shape(like, tf.int64)
        if like.shape.rank == 1:
            shape = tf.stack([shape[0], tf.constant(1, tf.int64)])
        # A column may return fewer columns than its input has, where the last ones hold no value.
        dense = tf.sparse.to_dense(tf.SparseTensor(sparse.indices, sparse.values, shape), default_value=NO_VALUE)
        return tf.cast(dense, tf.int32)


Encoder = TypeVar("Encoder", bound=type[FeatureEncoder[Any]])
_ENCODERS: dict[type[BaseFeature], type[FeatureEncoder[Any]]] = {}


def encodes(feature_class: type[BaseFeature]) -> Callable[[Encoder], Encoder]:
    """Registers a `FeatureEncoder` for a configuration class.

    Raises:
        ValueError: where the configuration class has another one.
    """

    def register(cls: Encoder) -> Encoder:
        if _ENCODERS.setdefault(feature_class, cls) is not cls:
            raise ValueError(f"feature type: {feature_class.__name__} is already encoded by another class")
        return cls

    return register


def build_encoder(feature: F, statistics: Mapping[str, Any], config: ExperimentConfig) -> FeatureEncoder[F]:
    """Builds the encoder of a feature with the statistics of its side, by feature name.

    Raises:
        ConfigError: for a type that no encoder is registered for.
    """
    if type(feature) not in _ENCODERS and feature.encoder_module:
        importlib.import_module(feature.encoder_module)
    cls = _ENCODERS.get(type(feature))
    if cls is None:
        raise ConfigError(
            f"{type(feature).__name__}: no encoder of this feature type is registered; name the module that "
            "registers it in the class attribute encoder_module"
        )
    return cls(feature, statistics.get(feature_name(feature), {}), config)


def build_array_encoder(
    feature: BaseFeature, statistics: Mapping[str, Any], config: ExperimentConfig
) -> Callable[[Mapping[str, Any]], npt.NDArray[Any]]:
    """Builds a function of raw columns with the feature's `encode` as a graph; see `array_encoders`.

    Raises:
        ConfigError: for a type that no encoder is registered for.
    """
    encoder, inputs = build_encoder(feature, statistics, config), {each.name: each for each in feature.inputs()}
    specs = {
        name: tf.TensorSpec([None] * KINDS[each.kind].rank, KINDS[each.kind].dtype, name)
        for name, each in inputs.items()
    }
    graph = tf.function(encoder.encode, input_signature=[specs], autograph=False).get_concrete_function()

    def encode(raw: Mapping[str, Any]) -> npt.NDArray[Any]:
        tensors = {
            name: tf.constant(arrow_to_array(inputs[name], column) if isinstance(column, pa.Array) else column)
            for name, column in raw.items()
        }
        return np.asarray(graph(tensors))

    return encode


@encodes(Hash)
@encodes(Tags)
@encodes(History)
class HashEncoder(FeatureEncoder[Hash | Tags | History]):
    """Hashes each text; that of a history as the item feature that it lists."""

    def build_column(self) -> Any:
        """Returns the column of hash buckets, or of the ids that two rows follow from."""
        hashed = history_target(self.config, self.feature) if isinstance(self.feature, History) else self.feature
        return tf.feature_column.categorical_column_with_hash_bucket(self.feature.inputs()[0].name, hashed.id_range())

    def encode(self, raw: Raw) -> tf.Tensor:
        """Encodes a batch; see `FeatureEncoder.encode`."""
        name = self.feature.inputs()[0].name
        return self.look_up({name: raw[name]}, raw[name])


@encodes(Cross)
class CrossEncoder(FeatureEncoder[Cross]):
    """Hashes combinations of texts."""

    def build_column(self) -> Any:
        """Returns the crossed column."""
        return tf.feature_column.crossed_column(list(self.feature.columns), self.feature.buckets)

    def encode(self, raw: Raw) -> tf.Tensor:
        """Encodes a batch; a combination with a missing part is missing. See `FeatureEncoder.encode`."""
        parts = {name: raw[name] for name in self.feature.columns}
        present = tf.reduce_all(tf.stack([tf.not_equal(part, "") for part in parts.values()]), axis=0)
        return _mask(self.look_up(parts, raw[self.feature.columns[0]]), present)


@encodes(Bucketized)
class BucketizedEncoder(FeatureEncoder[Bucketized]):
    """Cuts a number at the boundaries of its statistics."""

    def build_column(self) -> Any:
        """Returns the bucketized column, with one bucket if there are no boundaries."""
        number = tf.feature_column.numeric_column(self.feature.column)
        return tf.feature_column.bucketized_column(number, list(self.statistics["boundaries"]) or [float("inf")])

    def encode(self, raw: Raw) -> tf.Tensor:
        """Encodes a batch; see `FeatureEncoder.encode`."""
        value = raw[self.feature.column]
        present = tf.math.is_finite(value)
        return _mask(self.look_up({self.feature.column: tf.where(present, value, 0.0)}, value), present)


@encodes(Hour)
@encodes(Weekday)
class TimeEncoder(FeatureEncoder[Hour | Weekday]):
    """Takes the hour of the day, or the day of the week (Monday is 0), from epoch seconds, UTC."""

    def build_column(self) -> Any:
        """Returns a column of 24 or 7 ids."""
        return tf.feature_column.categorical_column_with_identity(self.feature.column, self.feature.table_rows())

    def encode(self, raw: Raw) -> tf.Tensor:
        """Encodes a batch; see `FeatureEncoder.encode`."""
        seconds = raw[self.feature.column]
        hourly = isinstance(self.feature, Hour)
        passed = tf.math.floordiv(seconds, SECONDS_PER_HOUR if hourly else SECONDS_PER_DAY)
        unit = tf.math.floormod(passed if hourly else passed + EPOCH_WEEKDAY, self.feature.table_rows())
        return _mask(self.look_up({self.feature.column: unit}, seconds), tf.not_equal(seconds, 0))


@encodes(Numeric)
class NumericEncoder(FeatureEncoder[Numeric]):
    """Transforms a number with mean and standard deviation of the training split."""

    def encode(self, raw: Raw) -> tf.Tensor:
        """Encodes a batch; see `FeatureEncoder.encode`."""
        value = raw[self.feature.column]
        present = tf.math.is_finite(value)
        value = tf.where(present, value, 0.0)
        if self.feature.transform == "log1p":
            value = tf.sign(value) * tf.math.log1p(tf.abs(value))
        if self.feature.transform != "none":
            mean, deviation = (tf.constant(self.statistics[each], tf.float32) for each in ("mean", "std"))
            value = (value - mean) / deviation
        return tf.where(present, value, 0.0)[:, tf.newaxis]


def _mask(ids: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    return tf.where(present[:, tf.newaxis], ids, NO_VALUE)
