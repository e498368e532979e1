"""Configured features as `tf.feature_column` columns, and the bucket ids these columns compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from twotower_tf.config import Bucketized, Cross, ExperimentConfig, Hash, History, Hour, Tags, Weekday
from twotower_tf.features.inputs import history_target

NO_VALUE = -1  # the bucket id of "no value"; its embedding is zero

HOURS, WEEKDAYS = 24, 7
SECONDS_PER_HOUR, SECONDS_PER_DAY = 3600, 86400
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


def categorical(feature: Any, statistics: Mapping[str, Any], config: ExperimentConfig) -> Any:
    """The categorical column of a feature.

    Args:
        feature: any feature but Numeric.
        statistics: the side's statistics by feature name; Bucketized needs its `boundaries`.
        config: the experiment, which says what a history is of.

    Returns:
        A `tf.feature_column` categorical column, keyed by the input's name. Bucketized columns whose training values
        were all equal or missing have one bucket.
    """
    fc = tf.feature_column
    if isinstance(feature, Hash | Tags):
        return fc.categorical_column_with_hash_bucket(feature.column, feature.buckets)
    if isinstance(feature, Cross):
        return fc.crossed_column(list(feature.columns), feature.buckets)
    if isinstance(feature, History):
        return fc.categorical_column_with_hash_bucket(feature.name, history_target(config, feature).buckets)
    if isinstance(feature, Hour):
        return fc.categorical_column_with_identity(feature.column, HOURS)
    if isinstance(feature, Weekday):
        return fc.categorical_column_with_identity(feature.column, WEEKDAYS)
    boundaries = list(statistics[feature.name or feature.column]["boundaries"])
    return fc.bucketized_column(fc.numeric_column(feature.column), boundaries or [float("inf")])


def bucket_ids(feature: Any, column: Any, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The bucket ids of a batch, as the column computes them.

    Args:
        feature: the configured feature.
        column: from `categorical`.
        raw: `[batch]` (Tags and History: `[batch, length]`) raw inputs by name.

    Returns:
        int32 `[batch, 1]` (`[batch, length]`), `NO_VALUE` where a value, or any part of a cross, is missing.
    """
    if isinstance(feature, Bucketized):
        value = raw[feature.column]
        ids = _ids(column, {feature.column: tf.where(tf.math.is_finite(value), value, 0.0)}, value)
        return _mask(ids, tf.math.is_finite(value))
    if isinstance(feature, Hour | Weekday):
        seconds = raw[feature.column]
        ids = _ids(column, {feature.column: _clock(feature, seconds)}, seconds)
        return _mask(ids, tf.not_equal(seconds, 0))
    if isinstance(feature, Cross):
        parts = [raw[name] for name in feature.columns]
        present = tf.reduce_all(tf.stack([tf.not_equal(part, "") for part in parts]), axis=0)
        return _mask(_ids(column, {name: raw[name] for name in feature.columns}, parts[0]), present)
    name = feature.name if isinstance(feature, History) else feature.column
    return _ids(column, {name: raw[name]}, raw[name])


def _clock(feature: Hour | Weekday, seconds: tf.Tensor) -> tf.Tensor:
    if isinstance(feature, Hour):
        return tf.math.floormod(tf.math.floordiv(seconds, SECONDS_PER_HOUR), HOURS)
    return tf.math.floormod(tf.math.floordiv(seconds, SECONDS_PER_DAY) + EPOCH_WEEKDAY, WEEKDAYS)


def _ids(column: Any, raw: Mapping[str, tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """The column's sparse ids as int32 of the shape of `like` (`[batch]` becomes `[batch, 1]`)."""
    cache = tf.__internal__.feature_column.FeatureTransformationCache(dict(raw))
    sparse = column.get_sparse_tensors(cache, None).id_tensor
    shape = tf.shape(like, tf.int64)
    if like.shape.rank == 1:
        shape = tf.stack([shape[0], tf.constant(1, tf.int64)])
    # A column may answer with fewer columns than it was asked, where the last ones hold no value.
    dense = tf.sparse.to_dense(tf.SparseTensor(sparse.indices, sparse.values, shape), default_value=NO_VALUE)
    return tf.cast(dense, tf.int32)


def _mask(ids: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    return tf.where(present[:, tf.newaxis], ids, NO_VALUE)


def table_buckets(feature: Any, config: ExperimentConfig) -> int:
    """Rows of the embedding table that a categorical feature needs."""
    if isinstance(feature, Hour):
        return HOURS
    if isinstance(feature, Weekday):
        return WEEKDAYS
    if isinstance(feature, History):
        return history_target(config, feature).buckets
    return int(feature.buckets)
