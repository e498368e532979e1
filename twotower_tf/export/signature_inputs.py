"""Converts rows of the prepared data to a tower's raw signature inputs, as clients of the exported model send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import Input
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.inputs import (
    KINDS,
    arrow_to_array,
    history_target,
    list_histories,
    pad,
    side_inputs,
)
from twotower_tf.prepare.prepared import Prepared

Arrays = dict[str, npt.NDArray[Any]]

_NEWEST_ROWS = 1 << 20  # of the log that sampled users are taken from


def sample_users(prepared: Prepared, count: int) -> tuple[str, npt.NDArray[np.int64]]:
    """Samples real users: at most `count` distinct ones, evenly from the first held-out split with rows.

    Returns:
        the split, and rows of it, ascending; none where the log is empty.
    """
    for split in ("test", "valid", "train"):
        total = prepared.num_rows(split)
        if total:
            users = prepared.columns(split, ["user_row"])["user_row"][:_NEWEST_ROWS]
            first = np.sort(np.unique(users, return_index=True)[1])
            chosen = np.linspace(0, len(first) - 1, min(count, len(first))).astype(np.int64)
            return split, first[chosen].astype(np.int64)
    return "train", np.empty(0, np.int64)


def user_arrays(
    config: ExperimentConfig, prepared: Prepared, encoded: EncodedData, split: str, rows: npt.NDArray[np.int64]
) -> Arrays:
    """Returns rows of a split as the user tower's raw inputs, as of those events.

    `rows`, `[n]`, are ascending.
    """
    inputs = side_inputs(config, "user")
    histories = {each.name: each for each in list_histories(config)}
    plain = [each for each in inputs if not each.keep_last]
    columns = {each.name: "timestamp" if each.kind == "time" else f"user.{each.name}" for each in plain}
    table = prepared.read_rows(split, list(dict.fromkeys(columns.values())), rows)
    arrays = {each.name: arrow_to_array(each, table[columns[each.name]]) for each in plain}
    catalogue = prepared.items()
    for each in inputs:
        if each.name in histories:
            history = histories[each.name]
            texts = catalogue[history_target(config, history).column]
            arrays[each.name] = _histories(each, texts, encoded.history_items(split, rows, history.length))
        elif each.times_of:
            arrays[each.name] = encoded.history_times(split, rows, histories[each.times_of].length)
    return arrays


def _histories(spec: Input, texts: pa.ChunkedArray, items: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """Converts item rows `[n, length]`, -1 for none, to padded texts."""
    known = texts.to_pylist()
    values = [[(known[item] or "").encode() for item in row if item >= 0] for row in items]
    return pad(values if spec.timed else [[value for value in row if value] for row in values], spec)


def to_rows(inputs: Sequence[Input], arrays: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, Any]]:
    """Turns raw arrays into JSON-like rows without missing values; `rows_to_arrays` is the inverse."""
    columns = {each.name: map(KINDS[each.kind].to_value, arrays[each.name]) for each in inputs}
    rows = [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    ]
    for each in inputs:
        for row in rows if each.times_of else ():
            if each.name in row:  # as long as each other, whatever is missing at the end
                _even(row, each)
    return rows


def _even(row: dict[str, Any], spec: Input) -> None:
    values, times = row.get(spec.times_of, []), row[spec.name]
    longest = max(len(values), len(times))
    row[spec.times_of], row[spec.name] = values + [""] * (longest - len(values)), times + [0] * (longest - len(times))
