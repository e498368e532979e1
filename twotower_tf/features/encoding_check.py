"""Compares prepared arrays with TensorFlow's encoding of the same rows, so that a skew stops a training.

Preparation encodes the built-in feature types in NumPy (`array_encoders`), the exported towers in TensorFlow
(`tower_encoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from twotower_tf.config import ExperimentConfig, feature_columns, feature_name
from twotower_tf.config.features import BaseFeature, SideName
from twotower_tf.errors import ArtifactError
from twotower_tf.features.catalogue_versions import load
from twotower_tf.features.column_encoder import ColumnEncoder
from twotower_tf.features.encode_rows import name_row_columns
from twotower_tf.features.inputs import arrow_to_array
from twotower_tf.features.layout import NO_VALUE, NUMERIC
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.prepare.prepared import Prepared, take_rows

ROWS = 4096  # of the catalogue and of the training rows
_TOLERANCE = 1e-5  # of a standardised number, relative and absolute


def check_encodings(config: ExperimentConfig, prepared: Prepared) -> None:
    """Compares the first `ROWS` items and training rows.

    Raises:
        ArtifactError: where a prepared value differs from the one that an exported tower computes.
    """
    paths = prepared.paths

    def read_items(columns: Sequence[str]) -> pa.Table:
        return take_rows([paths.items], columns, np.arange(min(ROWS, prepared.num_items)))

    def read_rows(columns: Sequence[str]) -> pa.Table:
        return prepared.read_rows("train", columns, np.arange(min(ROWS, prepared.num_rows("train"))))

    _check_side(config, prepared, "item", read_items, paths.encoded_items, "")
    _check_side(config, prepared, "user", read_rows, paths.encoded_items.parent / "train", "user.")


def _check_side(
    config: ExperimentConfig,
    prepared: Prepared,
    side: SideName,
    read: Callable[[Sequence[str]], pa.Table],
    directory: Path,
    prefix: str,
) -> None:
    columns = ColumnEncoder(config, prepared.statistics, side)
    names = (
        name_row_columns(columns.inputs, config.data.timestamp) if prefix else {name: name for name in columns.inputs}
    )
    rows = read(list(dict.fromkeys(names.values())))
    if not rows.num_rows:
        return
    raw = {name: arrow_to_array(columns.inputs[name], rows[column]) for name, column in names.items()}
    encoder, arrays = TowerEncoder(config, prepared.statistics, side), load(directory)
    for key, features in columns.groups.items():
        found = np.asarray(arrays[f"{prefix}{key}"][: rows.num_rows])
        for position, feature in enumerate(features):
            inputs = {name: tf.constant(raw[name]) for name in feature_columns(feature)}
            wanted = encoder.encode_feature(feature, inputs).numpy()
            own = found[:, position : position + 1] if len(features) > 1 else found
            _compare(feature, own, wanted, exact=key != NUMERIC, rows=rows, names=names)


def _compare(
    feature: BaseFeature,
    found: np.ndarray,
    wanted: np.ndarray,
    *,
    exact: bool,
    rows: pa.Table,
    names: dict[str, str],
) -> None:
    width = max(found.shape[1], wanted.shape[1])
    left, right = (_widen(each, width) for each in (found, wanted))
    same = left == right if exact else np.isclose(left, right, rtol=_TOLERANCE, atol=_TOLERANCE)
    if same.all():
        return
    row = int(np.flatnonzero(~same.all(axis=1))[0])
    values: dict[str, Any] = {name: rows[names[name]][row].as_py() for name in feature_columns(feature)}
    raise ArtifactError(
        f"prepared/encoded: feature {feature_name(feature)}: invalid encoding {left[row].tolist()} of {values} "
        f"(expected {right[row].tolist()}, as TensorFlow computes it in the exported tower); run `twotower prepare` "
        "again with the version of this package that trains"
    )


def _widen(array: np.ndarray, width: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=NO_VALUE)
