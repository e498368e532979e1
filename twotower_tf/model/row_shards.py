"""Tables whose rows are on several parameter servers, and how rows of any table are read and written.

With one shard a table is a `tf.Variable`; with more it is a `RowShards`. No function here reads or sends a whole table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

_NAME = re.compile(r"((?:.*/)?table)(?:/part_\d+)?(?::\d+)?")  # of a table's variable, or of one of its shards'


class RowShards:
    """Variables that together are one: the first rows are those of the first.

    Their sizes differ by at most one row, larger ones first, as `tf.nn.embedding_lookup` expects it.

    Attributes:
        parts: the variables, `[rows, ...]`.
        name: of the table.
    """

    def __init__(self, parts: Sequence[tf.Variable], name: str) -> None:
        self.parts = tuple(parts)
        self.name = name

    @property
    def shape(self) -> tf.TensorShape:
        return tf.TensorShape([sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:]])

    @property
    def dtype(self) -> tf.DType:
        return self.parts[0].dtype


Rows: TypeAlias = "tf.Variable | RowShards"


def list_sizes(rows: int, shards: int) -> list[int]:
    """Returns the rows of each shard of a table."""
    count = min(rows, shards)
    return [rows // count + (place < rows % count) for place in range(count)]


def join_parts(variables: Iterable[tf.Variable]) -> list[Rows]:
    """Returns the variables, with the shards of a table, which follow each other, as one."""
    joined: list[Rows] = []
    parts: dict[str, list[tf.Variable]] = {}
    for each in variables:
        name = find_table(each)
        if name is None or "/part_" not in each.name:
            joined.append(each)
            continue
        if name not in parts:
            parts[name] = []
            joined.append(RowShards((), name))
        parts[name].append(each)
    return [RowShards(parts[each.name], each.name) if isinstance(each, RowShards) else each for each in joined]


def find_table(variable: tf.Variable) -> str | None:
    """Returns the name of the embedding table that a variable is, or is a shard of; None for another variable."""
    found = _NAME.fullmatch(variable.name)
    return found and found[1]


def is_served(variable: tf.Variable) -> bool:
    """Tests whether a variable is on a parameter server."""
    return "/job:ps" in variable.device


def gather_rows(table: Rows, rows: Any) -> tf.Tensor:
    """Reads rows, ids of any shape; from servers each once."""
    parts = list(table.parts) if isinstance(table, RowShards) else [table]
    if len(parts) == 1 and not is_served(parts[0]):
        return tf.gather(table, rows)
    distinct, places = tf.unique(tf.reshape(rows, [-1]))
    found = tf.gather(tf.nn.embedding_lookup(parts, distinct), places)
    return tf.reshape(found, tf.concat([tf.shape(rows), tf.shape(found)[1:]], axis=0))


def scatter_rows(table: Rows, rows: Any, values: Any) -> None:
    """Overwrites distinct rows `[n]` in place; `table[rows].assign` would copy the table each time."""
    if not isinstance(table, RowShards):
        table.scatter_update(tf.IndexedSlices(tf.cast(values, table.dtype), rows))
        return
    places = np.asarray(rows)
    end = 0
    for part in table.parts:
        begin, end = end, end + part.shape[0]
        own = np.flatnonzero((places >= begin) & (places < end))
        if len(own):
            chosen = values if len(own) == len(places) else tf.gather(values, own)
            part.scatter_update(tf.IndexedSlices(tf.cast(chosen, part.dtype), places[own] - begin))


def read_rows(table: Rows, start: int, stop: int) -> tf.Tensor:
    """Rows of a table; `table[start:stop]` would copy all of it, once rows were written one by one."""
    return gather_rows(table, tf.range(start, stop))


def write_rows(table: Rows, start: int, part: np.ndarray | tf.Tensor) -> None:
    """Overwrites rows from `start` on in place."""
    scatter_rows(table, np.arange(start, start + len(part)), part)
