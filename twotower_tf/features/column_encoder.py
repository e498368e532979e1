"""Encodes Arrow columns as `TowerEncoder.encode` does: each distinct value, or combination of a cross, once.

A value's encoding depends on the value alone, so the rows' encodings are taken from those of the distinct values; a
column of a million rows and a thousand values costs a thousand hashes. A column that is not a dictionary is hashed row
by row: finding its distinct values would cost more. Combinations are the ones that occur: the
product of a cross's columns is never formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from twotower_tf.config import ExperimentConfig, feature_columns, feature_name
from twotower_tf.config.features import BaseFeature, Input, SideName
from twotower_tf.features.array_encoders import build_array_encoder
from twotower_tf.features.inputs import arrow_to_array, side_inputs
from twotower_tf.features.layout import IDS, NUMERIC, Layout
from twotower_tf.tables.arrow_numbers import fill_missing, view_as_arrow, view_as_numpy

Columns = Mapping[str, pa.Array | pa.ChunkedArray]


class ColumnEncoder:
    """One side's features, histories excepted: those are looked up from the catalogue when batches are built.

    Attributes:
        inputs: source columns by name.
        names: keys of the encoded arrays.
    """

    def __init__(self, config: ExperimentConfig, statistics: Mapping[str, Any], side: SideName) -> None:
        self.inputs = {each.name: each for each in side_inputs(config, side) if not each.keep_last}
        layout = Layout(config, side)
        multivalued = [each for each in layout.multivalued if feature_columns(each)]
        self.groups: dict[str, list[BaseFeature]] = {IDS: layout.single, NUMERIC: layout.numeric}
        self.groups |= {layout.values[feature_name(each)]: [each] for each in multivalued}
        self.groups = {name: features for name, features in self.groups.items() if features}
        self.names = list(self.groups)
        self._encoders = {
            feature_name(each): build_array_encoder(each, statistics[side], config)
            for features in self.groups.values()
            for each in features
        }

    def encode(self, columns: Columns, known: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Encodes rows.

        Args:
            columns: by source name, all of one length `[n]`; null means no value.
            known: arrays by key, `[n, width]`, for features whose columns are not all in `columns`.

        Returns:
            The encoded arrays by key.
        """
        return {
            name: np.concatenate(
                [
                    self.encode_feature(each, columns)
                    if known is None or all(column in columns for column in feature_columns(each))
                    else known[name][:, position : position + 1 if len(features) > 1 else None]
                    for position, each in enumerate(features)
                ],
                axis=1,
            )
            for name, features in self.groups.items()
        }

    def encode_feature(self, feature: BaseFeature, columns: Columns) -> np.ndarray:
        """Encodes rows of one feature, `[n, width]`."""
        names = feature_columns(feature)
        inputs, encode = [self.inputs[name] for name in names], self._encoders[feature_name(feature)]
        if len(inputs) == 1 and inputs[0].kind == "number":  # most values differ
            numbers: np.ndarray = encode({names[0]: arrow_to_array(inputs[0], columns[names[0]])})
            return numbers
        if len(inputs) == 1 and inputs[0].kind == "text" and not pa.types.is_dictionary(columns[names[0]].type):
            hashed: np.ndarray = encode({names[0]: _combine_chunks(columns[names[0]])})  # most values differ
            return hashed
        coded = [encode_dictionary(columns[name]) for name in names]
        codes, chosen = find_combinations([each[0] for each in coded], [len(each[1]) for each in coded])
        raw = {
            spec.name: _read_raw(spec, values.take(view_as_arrow(rows)))
            for spec, (_, values), rows in zip(inputs, coded, chosen, strict=True)
        }
        encoded: np.ndarray = encode(raw)[codes]
        return encoded


def _read_raw(spec: Input, column: pa.Array) -> Any:
    return column if spec.kind == "text" else arrow_to_array(spec, column)


def encode_dictionary(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Returns a column as codes `[n]` and their values; null is a value too, the last."""
    column = _combine_chunks(column)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = pa.concat_arrays([column.dictionary, pa.nulls(1, column.dictionary.type)])
    return view_as_numpy(fill_missing(column.indices, len(values) - 1)), values


def _combine_chunks(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no chunk, or too large for one
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def find_combinations(codes: Sequence[np.ndarray], sizes: Sequence[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Finds the combinations that occur in columns of codes `[n]`, each with its number of values.

    Returns:
        The rows' combinations `[n]`, and per column the codes `[combinations]`. Of one column all values are listed.
    """
    if len(codes) == 1:
        return codes[0], [np.arange(sizes[0])]
    joint, size = codes[0].astype(np.int64), sizes[0]
    for more, more_size in zip(codes[1:], sizes[1:], strict=True):
        coded = view_as_arrow(joint * more_size + more).dictionary_encode()  # now: the product of all sizes may be huge
        joint, size = view_as_numpy(coded.indices).astype(np.int64), len(coded.dictionary)
    example = np.empty(size, np.int64)
    example[joint] = np.arange(len(joint))
    return joint, [each[example] for each in codes]
