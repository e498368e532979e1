"""Lists the inputs of a tower, one per source column, and converts values by kind of input.

This module imports no TensorFlow: clients that only build requests use it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf.config import ExperimentConfig, Hash, History
from twotower_tf.config.features import BaseFeature, Input, Kind, SideName
from twotower_tf.errors import DataError, unknown_name
from twotower_tf.prepare.text_forms import apply_form
from twotower_tf.tables.arrow_numbers import fill_missing, view_as_numpy
from twotower_tf.tables.time_parser import SIGNATURE, TimeParser
from twotower_tf.tables.values import as_text, is_missing

HISTORY_SEPARATOR = "|"  # of a history that is one text
EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday


def side_features(config: ExperimentConfig, side: SideName) -> tuple[BaseFeature, ...]:
    """Returns the configured features of one tower."""
    return config.user_features if side == "user" else config.item_features


def list_histories(config: ExperimentConfig) -> list[History]:
    """Lists the history features of the user tower."""
    return [each for each in config.user_features if isinstance(each, History)]


def client_inputs(config: ExperimentConfig, forms: Mapping[str, str]) -> tuple[Input, ...]:
    """Returns the inputs of the user tower for clients' values, which are converted to the log's `data.text_forms`."""
    markers = config.data.null_values
    return tuple(
        replace(each, form=forms.get(each.name, ""), null_values=markers) for each in side_inputs(config, "user")
    )


def side_inputs(config: ExperimentConfig, side: SideName) -> tuple[Input, ...]:
    """Returns the inputs of one tower, in the order in which its features name them first."""
    return tuple({each.name: each for feature in side_features(config, side) for each in feature.inputs()}.values())


def split_texts(text: str, separator: str) -> list[str]:
    """Splits a text into its values, without surrounding blanks and empty values."""
    return [part for part in (piece.strip() for piece in text.split(separator)) if part]


def rows_to_arrays(
    inputs: Sequence[Input], rows: Sequence[Mapping[str, Any]], times: TimeParser = SIGNATURE, user_id: str = ""
) -> dict[str, np.ndarray]:
    """Turns JSON-like rows into a signature's raw tensors.

    Args:
        inputs: of the tower.
        rows: one mapping per example; an absent name, None, "", NaN, NA, NaT and `null_values` mean no value. 3, 3.0
            and "3" are one text. A list of values may be any iterable in order, or one text: of tags with their
            separator, of a history and of its items' times with `|`.
        times: how times are read; by default as the signature has them, in epoch seconds, or as ISO 8601.
        user_id: name of the user's id, which rows may have next to features although the tower does not read it.

    Returns:
        Input name to array: object array of bytes `[batch]` or `[batch, length]`, float32 `[batch]`, int64 `[batch]`
        or `[batch, length]`.

    Raises:
        DataError: for an unknown name (listing the known ones), a row with nothing but an id that the tower does not
            read, a value of the wrong type, or a history with a different number of times.
    """
    known = {each.name for each in inputs}
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {position}: invalid features {row!r} (expected an object of feature values)")
        if row and row.keys() <= {user_id} - known:
            raise DataError(f"row {position}: {user_id!r} alone says nothing: the model reads {_listing(known)}")
        for name in row:
            if name not in known and name != user_id:
                near = unknown_name("feature", name, known)
                raise DataError(
                    f"row {position}: {near}{'' if '; known: ' in near else f' (features: {_listing(known)})'}"
                )
    values = {each.name: [row.get(each.name) for row in rows] for each in inputs}
    for each in inputs:
        if each.times_of and each.times_of in values:
            _list_timed(each, values)
    return {each.name: KINDS[each.kind].from_values(each, values[each.name], times) for each in inputs}


def _list_timed(spec: Input, values: dict[str, list[Any]]) -> None:
    """Makes lists of histories and of their times, and checks that each has as many times as values, or none."""
    for name in (spec.times_of, spec.name):
        values[name] = [_list(replace(spec, name=name), value) for value in values[name]]
    for position, (items, times) in enumerate(zip(values[spec.times_of], values[spec.name], strict=True)):
        if times and len(times) != len(items):
            raise DataError(
                f"row {position}: feature {spec.name!r}: {len(times)} times (expected {len(items)}, one for each value "
                f"of {spec.times_of!r}, or none)"
            )


def _list(spec: Input, value: Any) -> list[Any]:
    """Returns the values of a list: any iterable in order, one value, or, of a history or its times, one text."""
    if isinstance(value, Mapping | Set):
        raise DataError(f"feature {spec.name!r}: invalid value {value!r} (expected a list of values)")
    is_text = isinstance(value, str | bytes | bytearray)
    if isinstance(value, Iterable) and not is_text:
        return list(value)
    if is_text and spec.keep_last:
        text = _text(replace(spec, form=""), value).decode()
        return text.split(HISTORY_SEPARATOR) if text else []
    return [] if is_missing(value) else [value]


def _listing(names: set[str]) -> str:
    return ", ".join(sorted(names))


def pad(texts: Sequence[Sequence[bytes]], spec: Input) -> np.ndarray:
    """Pads texts to an object array of bytes `[batch, longest]`, at least one column, cut to `max_length`."""
    cut = [list(row[-spec.max_length :] if spec.keep_last else row[: spec.max_length]) for row in texts]
    width = max([1, *map(len, cut)])
    return make_object_array([row + [b""] * (width - len(row)) for row in cut]).reshape(len(cut), width)


def make_object_array(values: list[Any]) -> np.ndarray:
    """Makes an object array, which keeps bytes as they are (NumPy's own bytes type drops trailing NULs)."""
    if values and isinstance(values[0], list):
        flat = [value for row in values for value in row]
        return make_object_array(flat).reshape(len(values), -1)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _text(spec: Input, value: Any) -> bytes:
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray):
        raise DataError(f"feature {spec.name!r}: invalid value {value!r} (expected one value)")
    try:
        text = as_text(value)
        return b"" if text in spec.null_values else apply_form(text, spec.form).encode()
    except UnicodeError:
        raise DataError(f"feature {spec.name!r}: invalid value {value!r} (expected text of valid Unicode)") from None


def _texts(spec: Input, value: Any) -> list[bytes]:
    texts = [_text(spec, each) for each in _list(spec, value)]
    if spec.timed:
        return texts
    if spec.keep_last or not spec.separator:
        return [text for text in texts if text]
    parts = (part for text in texts for part in split_texts(text.decode(), spec.separator))
    return [apply_form(part, spec.form).encode() for part in parts]


def _is_marker(spec: Input, value: Any) -> bool:
    """Tests whether a value is a text that means a missing value."""
    return isinstance(value, str) and value in spec.null_values


def _number(spec: Input, value: Any) -> float:
    if is_missing(value) or _is_marker(spec, value):
        return float("nan")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"feature {spec.name!r}: invalid value {value!r} (expected a number)") from None
    except OverflowError:  # an integer beyond every double
        return float("nan")
    return number if math.isfinite(number) else float("nan")


def _times(spec: Input, values: list[Any], form: TimeParser) -> np.ndarray:
    seconds = form.read([None if _is_marker(spec, value) else value for value in values])
    for value, found in zip(values, seconds, strict=True):
        if found is None:
            raise DataError(
                f"feature {spec.name!r}: invalid time {value!r} (expected {form.expected}); write it in the form that "
                "the log has"
            )
    return np.array(seconds, np.int64)


def _time_lists(spec: Input, values: list[Any], form: TimeParser) -> np.ndarray:
    lists = [_list(spec, value)[-spec.max_length :] for value in values]
    array = np.zeros((len(lists), max([1, *map(len, lists)])), np.int64)
    places = np.arange(array.shape[1]) < np.array([*map(len, lists)], int)[:, np.newaxis]
    array[places] = _times(spec, [each for row in lists for each in row], form)
    return array


def _times_to_arrow(spec: Input, array: np.ndarray) -> pa.Array:
    return pa.array([row[: _count_used(row)].tolist() for row in array], pa.list_(pa.int64()))


def _arrow_to_times(spec: Input, column: pa.Array) -> np.ndarray:
    return _time_lists(spec, column.to_pylist(), SIGNATURE)


def _count_used(row: np.ndarray) -> int:
    """Counts the places up to the last value of a padded list."""
    used = np.flatnonzero(row.astype(bool))
    return int(used[-1]) + 1 if len(used) else 0


def history_target(config: ExperimentConfig, history: History) -> Hash:
    """Returns the item feature whose values a history lists."""
    return next(f for f in config.item_features if isinstance(f, Hash) and (f.name or f.column) == history.of)


@dataclass(frozen=True)
class InputKind:
    """Everything that depends on the kind of an input, apart from TensorFlow operations.

    Attributes:
        dtype: of the tensor, by TensorFlow's name.
        rank: of the tensor.
        arrow: type of a column of such values in tables; null means no value.
        from_values: turns values of JSON-like rows into the raw array.
        from_arrow: turns a column of a table into the raw array.
        to_arrow: turns the raw array into a column of a table.
        to_value: turns one row of the raw array into a JSON-like value; None means no value.
    """

    dtype: str
    rank: int
    arrow: pa.DataType
    from_values: Callable[[Input, list[Any], TimeParser], np.ndarray]
    from_arrow: Callable[[Input, pa.Array], np.ndarray]
    to_arrow: Callable[[Input, np.ndarray], pa.Array]
    to_value: Callable[[Any], Any]


def arrow_to_array(spec: Input, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Turns an Arrow column into the raw NumPy array of an input; null means no value."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return KINDS[spec.kind].from_arrow(spec, column)


def columns_to_arrays(inputs: Sequence[Input], table: pa.Table) -> dict[str, np.ndarray]:
    """Turns the columns of a table that the inputs are named after into a signature's raw tensors, by name."""
    return {each.name: arrow_to_array(each, table[each.name]) for each in inputs}


def _filled(column: pa.Array, kind: pa.DataType, null: float) -> np.ndarray:
    return view_as_numpy(fill_missing(column.cast(kind), null))


def _arrow_to_texts(spec: Input, column: pa.Array) -> np.ndarray:
    coded = column.dictionary_encode()
    texts = [
        [part.encode() for part in split_texts(text or "", spec.separator)] for text in coded.dictionary.to_pylist()
    ]
    distinct: np.ndarray = pad([*texts, []], spec)  # the last row, without a value, is that of nulls
    rows: np.ndarray = distinct[_filled(coded.indices, coded.indices.type, len(texts))]
    return rows


def _texts_to_arrow(spec: Input, array: np.ndarray) -> pa.Array:
    if spec.timed:
        lists = [[text.decode() for text in row[: _count_used(row)]] for row in array]
    else:
        lists = [[text.decode() for text in row if text] for row in array]
    if spec.keep_last:
        return pa.array(lists, pa.list_(pa.string()))
    return pa.array([spec.separator.join(row) for row in lists], pa.string())


KINDS: dict[Kind, InputKind] = {
    "text": InputKind(
        "string",
        1,
        pa.string(),
        from_values=lambda spec, values, times: make_object_array([_text(spec, value) for value in values]),
        from_arrow=lambda spec, column: pc.fill_null(column.cast(pa.binary()), b"").to_numpy(zero_copy_only=False),
        to_arrow=lambda spec, array: pa.array([text.decode() for text in array], pa.string()),
        to_value=lambda value: value.decode() or None,
    ),
    "texts": InputKind(
        "string",
        2,
        pa.string(),
        from_values=lambda spec, values, times: pad([_texts(spec, value) for value in values], spec),
        from_arrow=_arrow_to_texts,
        to_arrow=_texts_to_arrow,
        to_value=lambda value: [text.decode() for text in value[: _count_used(value)]] or None,
    ),
    "number": InputKind(
        "float32",
        1,
        pa.float64(),
        from_values=lambda spec, values, times: np.array([_number(spec, value) for value in values], np.float32),
        from_arrow=lambda spec, column: _filled(column, pa.float64(), float("nan")).astype(np.float32),
        to_arrow=lambda spec, array: pa.array(array.astype(np.float64)),
        to_value=lambda value: float(value) if np.isfinite(value) else None,
    ),
    "time": InputKind(
        "int64",
        1,
        pa.int64(),
        from_values=_times,
        from_arrow=lambda spec, column: _filled(column, pa.int64(), 0),
        to_arrow=lambda spec, array: pa.array(array),
        to_value=lambda value: int(value) or None,
    ),
    "times": InputKind(
        "int64",
        2,
        pa.list_(pa.int64()),
        from_values=_time_lists,
        from_arrow=_arrow_to_times,
        to_arrow=_times_to_arrow,
        to_value=lambda value: value[: _count_used(value)].tolist() or None,
    ),
}
