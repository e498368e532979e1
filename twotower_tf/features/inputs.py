"""What a tower reads: one named input per source column, and JSON-like rows turned into such inputs.

This module imports no TensorFlow: clients that only build requests use it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from twotower_tf.config import Bucketized as BucketizedFeature
from twotower_tf.config import (
    ExperimentConfig,
    Hash,
    History,
    Hour,
    Numeric,
    Tags,
    Weekday,
    feature_columns,
    feature_name,
)
from twotower_tf.errors import DataError, unknown_name
from twotower_tf.prepare.text_forms import apply_form
from twotower_tf.tables.time_parser import SIGNATURE, TimeParser
from twotower_tf.tables.values import as_text, is_missing

SideName = Literal["user", "item"]
Kind = Literal["text", "texts", "number", "time"]

IDS, NUMERIC = "ids", "numeric"  # keys of the encoded tensors with a column per feature
HISTORY_SEPARATOR = "|"  # of a history that is one text


@dataclass(frozen=True)
class Input:
    """One input of a tower's signature.

    Attributes:
        name: the source column's name, or the history's.
        kind: "text" is a `[batch]` string, "texts" a `[batch, length]` string padded on the right with "",
            "number" a `[batch]` float32 where NaN is no value, "time" a `[batch]` int64 of epoch seconds, UTC,
            where 0 is no value.
        separator: of a "texts" input whose source is one text; "" where the source is a list.
        max_length: of a "texts" input; what a history keeps is its end, what tags keep is their beginning.
        keep_last: whether the end is kept.
        form: how the log writes booleans and whole numbers, of `data.text_forms`; "" is as others do.
    """

    name: str
    kind: Kind
    separator: str = ""
    max_length: int = 0
    keep_last: bool = False
    form: str = ""


def side_features(config: ExperimentConfig, side: SideName) -> tuple[Any, ...]:
    """The configured features of one tower."""
    return config.user_features if side == "user" else config.item_features


def is_multivalued(feature: Any) -> bool:
    """Whether a feature has several values per example."""
    return isinstance(feature, Tags | History)


def values_keys(config: ExperimentConfig, side: SideName) -> dict[str, str]:
    """Names of the features with several values to the keys of their encoded tensors: `values0`, `values1`, ...

    The keys are numbered in the order of the features and never contain a feature's name: they are names of files and
    of a signature's arguments, and a feature may have any name.
    """
    multivalued = [feature_name(each) for each in side_features(config, side) if is_multivalued(each)]
    return {name: f"values{number}" for number, name in enumerate(multivalued)}


def client_inputs(config: ExperimentConfig, forms: Mapping[str, str]) -> tuple[Input, ...]:
    """The inputs of the user tower for clients' values, which are written in the log's `data.text_forms`."""
    return tuple(replace(each, form=forms.get(each.name, "")) for each in side_inputs(config, "user"))


def side_inputs(config: ExperimentConfig, side: SideName) -> tuple[Input, ...]:
    """The inputs of one tower, in the order in which its features name them first."""
    inputs: dict[str, Input] = {}
    for feature in side_features(config, side):
        if isinstance(feature, History):
            inputs[feature.name] = Input(feature.name, "texts", "", feature.length, keep_last=True)
        elif isinstance(feature, Tags):
            inputs[feature.column] = Input(feature.column, "texts", feature.separator, feature.max_length)
        elif isinstance(feature, Hour | Weekday):
            inputs[feature.column] = Input(feature.column, "time")
        elif isinstance(feature, Numeric | BucketizedFeature):
            inputs[feature.column] = Input(feature.column, "number")
        else:
            inputs.update({column: Input(column, "text") for column in feature_columns(feature)})
    return tuple(inputs.values())


def split_texts(text: str, separator: str) -> list[str]:
    """The values of one text, without surrounding blanks; empty ones are no values."""
    return [part for part in (piece.strip() for piece in text.split(separator)) if part]


def rows_to_arrays(
    inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]], times: TimeParser = SIGNATURE
) -> dict[str, np.ndarray]:
    """Turns JSON-like rows into a signature's raw tensors.

    Args:
        inputs: of the tower.
        rows: one mapping per example; an absent name, None, "", NaN, NA and NaT are no value. 3, 3.0 and "3" are one
            text. A list of values may be any iterable in order, or one text: of tags with their separator, of a history
            with `|`.
        times: how times are read; by default as the signature has them, in epoch seconds, or as ISO 8601.

    Returns:
        Input name to array: object array of bytes `[batch]` or `[batch, length]`, float32 `[batch]`, int64 `[batch]`.

    Raises:
        DataError: for an unknown name (listing the known ones) or a value of the wrong type.
    """
    known = {each.name for each in inputs}
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {position}: an object of feature values is expected; came {row!r}")
        for name in row:
            if name not in known:
                raise DataError(f"row {position}: {unknown_name('feature', name, known)} (features: {_listing(known)})")
    return {each.name: _column(each, [row.get(each.name) for row in rows], times) for each in inputs}


def _listing(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _column(spec: Input, values: list[Any], times: TimeParser) -> np.ndarray:
    if spec.kind == "number":
        return np.array([_number(spec, value) for value in values], np.float32)
    if spec.kind == "time":
        return _times(spec, values, times)
    if spec.kind == "text":
        return objects([_text(spec, value) for value in values])
    return pad([_texts(spec, value) for value in values], spec)


def pad(texts: Sequence[Sequence[bytes]], spec: Input) -> np.ndarray:
    """Object array of bytes `[batch, longest]` (at least one column), cut to the input's `max_length`."""
    cut = [list(row[-spec.max_length :] if spec.keep_last else row[: spec.max_length]) for row in texts]
    width = max([1, *map(len, cut)])
    return objects([row + [b""] * (width - len(row)) for row in cut]).reshape(len(cut), width)


def objects(values: list[Any]) -> np.ndarray:
    """An object array that keeps bytes as they are (NumPy's own bytes type drops trailing NULs)."""
    if values and isinstance(values[0], list):
        flat = [value for row in values for value in row]
        return objects(flat).reshape(len(values), -1)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _text(spec: Input, value: Any) -> bytes:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray):
        raise DataError(f"feature {spec.name!r}: one value is expected; came {value!r}")
    try:
        return apply_form(as_text(value), spec.form).encode()
    except UnicodeError:
        raise DataError(f"feature {spec.name!r}: text of valid Unicode is expected; came {value!r}") from None


def _texts(spec: Input, value: Any) -> list[bytes]:
    if isinstance(value, Mapping | Set):
        raise DataError(f"feature {spec.name!r}: a list of values is expected; came {value!r}")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray):
        texts = [_text(spec, each) for each in value]
        if spec.keep_last:
            return [text for text in texts if text]
    elif spec.keep_last:
        return [text for text in (_text(spec, each) for each in _whole_text(spec, value)) if text]
    else:
        texts = [_text(spec, value)]
    if not spec.separator:
        return [text for text in texts if text]
    return [part.encode() for text in texts for part in split_texts(text.decode(), spec.separator)]


def _whole_text(spec: Input, value: Any) -> list[str]:
    """The items of a history that is one text, or one value."""
    return _text(replace(spec, form=""), value).decode().split(HISTORY_SEPARATOR)


def _number(spec: Input, value: Any) -> float:
    if is_missing(value):
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"feature {spec.name!r}: a number is expected; came {value!r}") from None
    except OverflowError:  # an integer beyond every double
        return float("nan")
    return number if math.isfinite(number) else float("nan")


def _times(spec: Input, values: list[Any], form: TimeParser) -> np.ndarray:
    seconds = form.read(values)
    for value, found in zip(values, seconds, strict=True):
        if found is None:
            raise DataError(
                f"feature {spec.name!r}: invalid time {value!r} (expected {form.expected}); write it in the form that "
                "the log has"
            )
    return np.array(seconds, np.int64)


def history_target(config: ExperimentConfig, history: History) -> Hash:
    """The item feature whose values a history lists."""
    target = next(f for f in config.item_features if isinstance(f, Hash) and (f.name or f.column) == history.of)
    return target
