"""Encodes columns of the built-in feature types in NumPy, with the results of `features.types`, without TensorFlow.

`types` has the definition of each encoding: TensorFlow's columns, which exported towers run. Preparation needs the same
ids, and TensorFlow takes as long to load as a million events take to prepare. Feature types that are registered
elsewhere are encoded with TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf.config import (
    Bucketized,
    Cross,
    ExperimentConfig,
    Hash,
    Hour,
    Numeric,
    Tags,
    Weekday,
    feature_name,
)
from twotower_tf.config.features import BaseFeature
from twotower_tf.features.farm_hash import combine_fingerprints, compute_fingerprints
from twotower_tf.features.inputs import EPOCH_WEEKDAY
from twotower_tf.features.layout import NO_VALUE
from twotower_tf.tables.arrow_numbers import fill_missing, view_as_numpy
from twotower_tf.tables.timestamps import SECONDS_PER_DAY, SECONDS_PER_HOUR

RawColumns: TypeAlias = Mapping[str, Any]
Encode: TypeAlias = Callable[[RawColumns], Any]

_CROSS_KEY = np.uint64(0xDECAFCAFFE)  # of TensorFlow's crossed columns


def build_array_encoder(feature: BaseFeature, statistics: Mapping[str, Any], config: ExperimentConfig) -> Encode:
    """Builds the function that encodes a feature's raw columns, by name.

    The function's argument has texts as an Arrow array `[n]`, several texts as an object array of bytes `[n, T]`, a
    number as float32 `[n]`, a time as int64 `[n]`; null, "", NaN and time 0 mean no value. It returns int32 `[n, 1]`
    (`[n, T]`) bucket ids, -1 where a value is missing, or of a numeric feature float32 `[n, 1]`, 0 where it is missing.

    Args:
        feature: any feature but a history.
        statistics: of the feature's side, by feature name.
        config: the experiment.

    Raises:
        ConfigError: for a type that no encoder is registered for.
    """
    build = _BUILDERS.get(type(feature))
    if build is not None:
        return build(feature, statistics.get(feature_name(feature), {}))
    from twotower_tf.features import types

    encode: Encode = types.build_array_encoder(feature, statistics, config)
    return encode


def _encode_hash(feature: Hash, statistics: Mapping[str, Any]) -> Encode:
    return lambda raw: _find_buckets(raw[feature.column], feature.id_range())[:, np.newaxis]


def _encode_tags(feature: Tags, statistics: Mapping[str, Any]) -> Encode:
    def encode(raw: RawColumns) -> Any:
        texts = raw[feature.column]
        ids = _find_buckets(pa.array(texts.ravel(), pa.binary()), feature.buckets)
        return ids.reshape(texts.shape)

    return encode


def _encode_cross(feature: Cross, statistics: Mapping[str, Any]) -> Encode:
    def encode(raw: RawColumns) -> Any:
        texts = [raw[name] for name in feature.columns]
        joined: Any = _CROSS_KEY
        for each in texts:
            joined = combine_fingerprints(joined, compute_fingerprints(each))
        present = np.logical_and.reduce([_is_present(each) for each in texts])
        return _reduce(joined, feature.buckets, present)[:, np.newaxis]

    return encode


def _encode_bucketized(feature: Bucketized, statistics: Mapping[str, Any]) -> Encode:
    boundaries = np.asarray(statistics["boundaries"], np.float32)

    def encode(raw: RawColumns) -> Any:
        value = raw[feature.column]
        ids = np.searchsorted(boundaries, value, side="right")
        return np.where(np.isfinite(value), ids, NO_VALUE).astype(np.int32)[:, np.newaxis]

    return encode


def _encode_hour(feature: Hour, statistics: Mapping[str, Any]) -> Encode:
    return lambda raw: _mask_times(raw[feature.column], raw[feature.column] // SECONDS_PER_HOUR % feature.table_rows())


def _encode_weekday(feature: Weekday, statistics: Mapping[str, Any]) -> Encode:
    def encode(raw: RawColumns) -> Any:
        seconds = raw[feature.column]
        return _mask_times(seconds, (seconds // SECONDS_PER_DAY + EPOCH_WEEKDAY) % feature.table_rows())

    return encode


def _encode_numeric(feature: Numeric, statistics: Mapping[str, Any]) -> Encode:
    def encode(raw: RawColumns) -> Any:
        value = raw[feature.column]
        present = np.isfinite(value)
        value = np.where(present, value, np.float32(0))
        if feature.transform == "log1p":
            value = np.sign(value) * np.log1p(np.abs(value))
        if feature.transform != "none":
            mean, deviation = (np.float32(statistics[each]) for each in ("mean", "std"))
            with np.errstate(over="ignore", invalid="ignore"):
                value = (value - mean) * (np.float32(1) / deviation)  # as TensorFlow's graphs divide by a constant
        return np.where(present, value, np.float32(0))[:, np.newaxis]

    return encode


_BUILDERS: dict[type[BaseFeature], Callable[[Any, Mapping[str, Any]], Encode]] = {
    Hash: _encode_hash,
    Tags: _encode_tags,
    Cross: _encode_cross,
    Bucketized: _encode_bucketized,
    Hour: _encode_hour,
    Weekday: _encode_weekday,
    Numeric: _encode_numeric,
}


def _find_buckets(texts: pa.Array, size: int) -> npt.NDArray[np.int32]:
    return _reduce(compute_fingerprints(texts), size, _is_present(texts))


def _is_present(texts: pa.Array) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = view_as_numpy(fill_missing(pc.binary_length(texts), 0)) > 0
    return present


def _reduce(fingerprints: npt.NDArray[np.uint64], size: int, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    ids: npt.NDArray[np.int32] = (fingerprints % np.uint64(size)).astype(np.int32)
    ids[~present] = NO_VALUE
    return ids


def _mask_times(seconds: npt.NDArray[np.int64], unit: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    ids: npt.NDArray[np.int32] = np.where(seconds != 0, unit, NO_VALUE).astype(np.int32)[:, np.newaxis]
    return ids
