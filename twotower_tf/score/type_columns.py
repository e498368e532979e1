"""Converts a user table's raw columns into the values of features, and validates each row.

As in the preparation, DuckDB decides what a text, a number or a time is, once per distinct value. A row without an id,
or with an invalid number or time, is not answered but quarantined.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf import ragged, sql
from twotower_tf.characters import LINE_BREAKING, LINE_BREAKS
from twotower_tf.errors import DataError
from twotower_tf.prepare import text_forms
from twotower_tf.score.unit_reader import Bad
from twotower_tf.score.user_columns import Column, is_text
from twotower_tf.tables.readers import scans
from twotower_tf.tables.time_parser import TimeParser
from twotower_tf.tables.values import number_sql, text_sql

_CONTROLS = np.frombuffer(LINE_BREAKS.encode(), np.uint8)
_VALUE = "v"  # what DuckDB sees a column as
_TRAINED_ON = {"number": "numbers", "time": "times: expected {}"}

Mask = npt.NDArray[np.bool_]
Fault = tuple[Mask, Callable[[Any], str], pa.Array]  # rows, reason for a value, the values


@dataclass(frozen=True)
class Users:
    """Rows of a user table.

    Attributes:
        ids: `[n]` text; null for a missing one.
        columns: by name, `[n]`: texts (of tags, joined ones), float64 numbers, int64 epoch seconds, or lists of texts
            or of epoch seconds; null means no value.
        good: `[n]` whether the row is to be answered.
    """

    ids: pa.Array
    columns: Mapping[str, pa.Array]
    good: Mask

    def __len__(self) -> int:
        return len(self.good)


class ColumnTyper:
    """Types and validates rows."""

    def __init__(
        self, user_id: str, columns: Sequence[Column], times: TimeParser, null_values: Collection[str] = ()
    ) -> None:
        """Keeps the features' columns that the table has, how times are read, and texts that mean a missing value."""
        self._user_id = user_id
        self._columns = columns
        self._times = times
        self._null_values = null_values
        self._connection = sql.connect(threads=1)

    def type_rows(self, table: pa.Table, first: int) -> tuple[Users, list[Bad]]:
        """Types the columns of a table; `first` is the place of its first row in its unit."""
        faults: list[Fault] = []
        ids = self._texts(self._user_id, self._without_markers(take_column(table, self._user_id)), "|")
        ids = _decode(ids)
        where = f"column {self._user_id!r}"
        empty = pc.fill_null(pc.equal(pc.binary_length(ids), 0), True).to_numpy(zero_copy_only=False)
        faults.append((empty, lambda value: f"no user id: {where} is empty", ids))
        if _has_controls(ids):
            odd = pc.fill_null(pc.match_substring_regex(ids, LINE_BREAKING), False).to_numpy(zero_copy_only=False)
            faults.append((odd, lambda value: f"user id with a tab, line end or NUL in {where}", ids))
        values: dict[str, pa.Array] = {}
        for each in self._columns:
            if each.name in table.column_names:
                values[each.name] = self._typed(each, take_column(table, each.name), faults)
                if each.times_of in values:
                    faults.append(_find_unequal(each, values[each.times_of], values[each.name]))
        good = np.ones(table.num_rows, np.bool_)
        reasons: dict[int, str] = {}
        for mask, reason, raw in faults:
            for row in np.flatnonzero(mask & good):
                reasons[int(row)] = reason(raw[int(row)].as_py())
            good &= ~mask
        places = sorted(reasons)
        texts = [_text(row) for row in table.take(places).to_pylist()] if places else []
        bad = [Bad(first + row, reasons[row], text) for row, text in zip(places, texts, strict=True)]
        return Users(ids, values, good), bad

    def _typed(self, each: Column, raw: pa.Array, faults: list[Fault]) -> pa.Array:
        raw = self._without_markers(raw)
        if each.role == "history":
            return self._lists(each, raw)
        if each.role == "times":
            return self._time_lists(each, raw, faults)
        if each.role in ("text", "tags"):
            return self._written(each, self._texts(each.name, raw, each.separator or "|"))
        kind = _value_type(raw)
        if each.role == "number" and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            return pc.cast(raw, pa.float64(), safe=False)  # the nearest double, as DuckDB has it
        duck = self._kind(raw)
        value = number_sql(_VALUE, duck) if each.role == "number" else self._times.seconds(_VALUE, duck)
        found, present = self._evaluate(raw, [value, _present(duck)])
        if each.role == "number" and is_text(kind):
            # "nan" and "inf" are numbers as text, and mean no value
            (written,) = self._evaluate(raw, [f"TRY_CAST({_VALUE} AS DOUBLE) IS NOT NULL"])
            wrong = pc.and_(present, pc.invert(written))
        else:
            wrong = pc.and_(present, pc.is_null(found))
        mask = pc.fill_null(wrong, False).to_numpy(zero_copy_only=False)
        if mask.any():
            expected = "a number" if each.role == "number" else self._times.expected
            where = f"column {each.name!r}: invalid {each.role}"
            faults.append((mask, lambda value: f"{where} {value!r} (expected {expected})", raw))
        return found

    def check_values(self, table: pa.Table, where: str) -> None:
        """Checks that most values of each column of numbers or times are valid.

        Raises:
            DataError: for a column in which they are not, with an example.
        """
        for each in self._columns:
            if each.role not in _TRAINED_ON or each.name not in table.column_names:
                continue
            faults: list[Fault] = []
            raw = take_column(table, each.name)
            self._typed(each, raw, faults)
            for mask, _, _ in faults:
                present = int(pc.sum(self._evaluate(raw, [_present(self._kind(raw))])[0]).as_py() or 0)
                wrong = int(mask.sum())
                if wrong * 2 > present:
                    example = raw[int(np.argmax(mask))].as_py()
                    trained_on = _TRAINED_ON[each.role].format(self._times.expected)
                    raise DataError(
                        f"{where}: column {each.name!r}: invalid {each.role} in {wrong} of the first {present} values, "
                        f"e.g. {example!r}; the model was trained on {trained_on}"
                    )

    def _without_markers(self, raw: pa.Array) -> pa.Array:
        """Returns a column with nulls for the texts that mean a missing value."""
        kind = _value_type(raw)
        if not self._null_values or not is_text(kind):
            return raw
        return self._evaluate(raw, [scans.present_text(_VALUE, self._null_values)])[0]

    def _texts(self, name: str, raw: pa.Array, separator: str) -> pa.Array:
        """Converts a column to texts, or to a dictionary of texts."""
        kind = _value_type(raw)
        if pa.types.is_string(kind):
            return raw
        if is_text(kind):
            target = pa.dictionary(pa.int32(), pa.string()) if pa.types.is_dictionary(raw.type) else pa.string()
            try:
                return pc.cast(raw, target)
            except pa.ArrowInvalid:
                raise DataError(f"column {name!r}: its bytes are not UTF-8 text") from None
        return self._evaluate(raw, [text_sql(_VALUE, self._kind(raw), separator)])[0]

    def _written(self, each: Column, texts: pa.Array) -> pa.Array:
        """Returns texts as the log writes them."""
        if not each.form:
            return texts
        separator = each.separator if each.role == "tags" else ""
        return self._evaluate(texts, [text_forms.apply_form_sql(_VALUE, each.form, separator)])[0]

    def _lists(self, each: Column, raw: pa.Array) -> pa.Array:
        """Converts a column to lists of texts."""
        if is_text(raw.type) or pa.types.is_dictionary(raw.type):
            texts = self._texts(each.name, raw, each.separator)
            texts = _decode(texts)
            lists = pc.split_pattern(texts, each.separator)
            return self._lists(each, lists) if each.form else lists
        if pa.types.is_null(raw.type):
            return pa.nulls(len(raw), pa.list_(pa.string()))
        if not pa.types.is_list(raw.type):
            raw = pc.cast(raw, pa.list_(raw.type.value_type))
        values = self._written(each, self._texts(each.name, self._without_markers(raw.flatten()), "|"))
        values = _decode(values)
        lengths = pc.fill_null(pc.list_value_length(raw), 0).to_numpy(zero_copy_only=False)
        offsets = ragged.to_offsets(lengths).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    def _time_lists(self, each: Column, raw: pa.Array, faults: list[Fault]) -> pa.Array:
        """Converts a column to lists of epoch seconds."""
        if pa.types.is_null(raw.type):
            return pa.nulls(len(raw), pa.list_(pa.int64()))
        if is_text(raw.type) or pa.types.is_dictionary(raw.type):
            raw = pc.split_pattern(_decode(self._texts(each.name, raw, each.separator)), each.separator)
        elif not pa.types.is_list(raw.type):
            raw = pc.cast(raw, pa.list_(raw.type.value_type))
        lengths = pc.fill_null(pc.list_value_length(raw), 0).to_numpy(zero_copy_only=False)
        owner = ragged.to_rows(lengths)
        found: list[Fault] = []
        seconds = self._typed(Column(each.name, "time"), raw.flatten(), found)
        for wrong, reason, values in found:
            rows, places = np.unique(owner[wrong], return_index=True)
            mask = np.zeros(len(raw), np.bool_)
            mask[rows] = True
            examples = pa.nulls(len(raw), values.type).to_pylist()
            for row, place in zip(rows, np.flatnonzero(wrong)[places], strict=True):
                examples[row] = values[int(place)].as_py()
            faults.append((mask, reason, pa.array(examples, values.type)))
        offsets = ragged.to_offsets(lengths).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pc.cast(seconds, pa.int64()))

    def _kind(self, raw: pa.Array) -> str:
        """Returns DuckDB's type for the values of a column."""
        values = raw.dictionary if pa.types.is_dictionary(raw.type) else raw
        self._connection.register("described", pa.table({_VALUE: values.slice(0, 0)}))
        ((kind,),) = self._connection.execute("SELECT column_type FROM (DESCRIBE described)").fetchall()
        return str(kind)

    def _evaluate(self, raw: pa.Array, expressions: Sequence[str]) -> list[pa.Array]:
        """Evaluates SQL expressions of `v` for every row, once per distinct value."""
        nested = pa.types.is_nested(raw.type)
        coded = raw if nested or pa.types.is_dictionary(raw.type) else raw.dictionary_encode()
        values = raw if nested else pa.concat_arrays([coded.dictionary, pa.nulls(1, coded.dictionary.type)])
        self._connection.register("distinct_values", pa.table({_VALUE: values}))
        selected = ", ".join(f"{expression} AS e{number}" for number, expression in enumerate(expressions))
        found = self._connection.sql(f"SELECT {selected} FROM distinct_values").to_arrow_table()
        columns = [each.combine_chunks() for each in found.columns]
        if nested:
            return columns
        indices = pc.fill_null(coded.indices, len(values) - 1)
        return [each.take(indices) for each in columns]


def _find_unequal(each: Column, items: pa.Array, times: pa.Array) -> Fault:
    """Finds the rows whose history has another number of times than of items, and any."""
    counts = [pc.fill_null(pc.list_value_length(lists), 0) for lists in (items, times)]
    wrong = pc.and_(pc.greater(counts[1], 0), pc.not_equal(*counts)).to_numpy(zero_copy_only=False)
    where = f"column {each.name!r}"
    return wrong, lambda value: f"{where}: {len(value)} times (expected one for each item of {each.times_of!r})", times


def take_column(table: pa.Table, name: str) -> pa.Array:
    """Returns a column in one piece; float16, which DuckDB does not take from Arrow, as float32."""
    chunks = table[name]
    if pa.types.is_float16(chunks.type):
        chunks = chunks.cast(pa.float32())
    if chunks.num_chunks == 1:
        return chunks.chunk(0)
    if pa.types.is_dictionary(chunks.type):
        chunks = chunks.unify_dictionaries()
    whole = chunks.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)


def _value_type(array: pa.Array) -> pa.DataType:
    return array.type.value_type if pa.types.is_dictionary(array.type) else array.type


def _decode(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _present(kind: str) -> str:
    return f"({_VALUE} IS NOT NULL" + (f" AND trim({_VALUE}) <> '')" if kind == "VARCHAR" else ")")


def _has_controls(ids: pa.Array) -> bool:
    """Returns whether any byte of the texts is a tab, line end or NUL, by one pass over their common buffer."""
    data = ids.buffers()[2]
    return data is not None and bool(np.isin(np.frombuffer(data, np.uint8), _CONTROLS).any())


def _text(row: Mapping[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)
