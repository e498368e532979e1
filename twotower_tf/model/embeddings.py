"""Embedding tables: features of one dimension and one use share one physical table, each at its own offset."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import ExperimentConfig, History, feature_name
from twotower_tf.config.features import BaseFeature, SideName
from twotower_tf.features.inputs import side_features
from twotower_tf.features.row_pairs import pair_rows
from twotower_tf.model import row_shards

_DRAWN_AT_ONCE = 1 << 20  # random numbers, 4 MB: they stay in a core's cache until they are written
_LEVELS = 1 << 16  # different values an initial number can take: four of them cost one 64-bit random number

Key = tuple[SideName, str]  # a feature: side and name


@dataclass(frozen=True)
class Placement:
    """Where a feature's embeddings lie.

    Attributes:
        table: name of the physical table.
        offset: its first row there.
        buckets: its number of rows.
        dim: of an embedding.
        hashes: rows of an id, whose embeddings are added.
    """

    table: str
    offset: int
    buckets: int
    dim: int
    hashes: int = 1

    @property
    def paired(self) -> int:
        """`buckets` where an id has two rows, 0 where it is its row."""
        return self.buckets if self.hashes > 1 else 0

    def list_rows(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Lists the rows of the table that ids `[n]` are looked up at, `[n]` or `[2 n]`."""
        rows = ids.astype(np.int64)
        return self.offset + (np.concatenate(pair_rows(rows, self.buckets)) if self.paired else rows)


def plan_tables(config: ExperimentConfig) -> dict[Key, Placement]:
    """Places every categorical feature.

    Tables used by the user tower alone, the item tower alone and by both are apart, so that an exported tower holds
    no row that it cannot read.
    """
    sides_known: tuple[SideName, ...] = ("item", "user")
    features: dict[Key, BaseFeature] = {
        (side, feature_name(each)): each
        for side in sides_known
        for each in side_features(config, side)
        if not each.numeric
    }
    roots = {key: _root(key, each, features) for key, each in features.items()}
    sides: dict[Key, set[str]] = {}
    for key, root in roots.items():
        sides.setdefault(root, set()).add(key[0])
    filled: dict[str, int] = {}
    placed: dict[Key, Placement] = {}
    for root, users in sides.items():
        each = features[root]
        dim = each.embedding_dim or config.model.embedding_dim
        table = f"{'shared' if len(users) > 1 else root[0]}_embedding_{dim}"
        buckets = each.table_rows()
        placed[root] = Placement(table, filled.get(table, 0), buckets, dim, getattr(each, "hashes", 1))
        filled[table] = filled.get(table, 0) + buckets
    return {key: placed[root] for key, root in roots.items()}


def _root(key: Key, feature: BaseFeature, features: Mapping[Key, BaseFeature]) -> Key:
    """Returns the feature whose table this one uses: itself, or the one it shares with."""
    if isinstance(feature, History):
        return _root(("item", feature.of), features["item", feature.of], features)
    if not feature.shared_with:
        return key
    own = (key[0], feature.shared_with)
    return own if own in features else ("item" if key[0] == "user" else "user", feature.shared_with)


def tables(config: ExperimentConfig, shards: int = 1) -> dict[str, EmbeddingTable]:
    """Creates one layer per physical table of the plan, of so many shards."""
    rows: dict[str, int] = {}
    dims: dict[str, int] = {}
    for placement in plan_tables(config).values():
        rows[placement.table] = max(rows.get(placement.table, 0), placement.offset + placement.buckets)
        dims[placement.table] = placement.dim
    dtype = config.model.table_dtype
    return {name: EmbeddingTable(rows[name], dims[name], dtype, shards, name=name) for name in sorted(rows)}


def parts_of(rows: int, dim: int) -> Iterator[tuple[int, int]]:
    """Yields the first row and the end of each part of a table whose content is drawn at once."""
    size = max(1, _DRAWN_AT_ONCE // dim)
    return ((start, min(rows, start + size)) for start in range(0, rows, size))


def initial_rows(start: int, stop: int, dim: int, seed: Sequence[int], scale: float) -> npt.NDArray[np.float32]:
    """Draws random content of a part of a table: uniform between ±scale · dim^-0.5, the same for the same arguments.

    A scale of 1 keeps a sum of a few embeddings near unit size. A hundred million rows of 16 take seconds.

    Args:
        start: first row of the part.
        stop: its end.
        dim: of an embedding.
        seed: of the table.
        scale: `ModelConfig.initial_scale`.

    Returns:
        `[stop - start, dim]`, no row of which is all zero.
    """
    step = np.float32(2.0 * scale * dim**-0.5 / _LEVELS)
    raw = np.random.SFC64([*seed, start]).random_raw(-(-(stop - start) * dim // 4)).view(np.uint16)
    part = raw[: (stop - start) * dim].astype(np.float32)
    part -= np.float32((_LEVELS - 1) / 2)
    part *= step
    return part.reshape(-1, dim)


class EmbeddingTable(keras.layers.Layer):
    """A table `[rows, dim]` that is read at bucket ids plus each column's offset.

    A new table is zero. Before it trains, the rows that training can read get random content (`draw_rows`). All others
    stay zero: an id that training never met adds nothing, as no value does. So a row without content is known by
    itself, in a checkpoint, a bundle and a warm start too.
    """

    def __init__(self, rows: int, dim: int, table_dtype: str = "float32", shards: int = 1, **kwargs: Any) -> None:
        """Configures a table of `shards` variables, each of which is on another server."""
        super().__init__(**kwargs)
        self.rows = rows
        self.dim = dim
        self.table_dtype = table_dtype
        self.shards = shards

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        sizes = row_shards.list_sizes(self.rows, self.shards)
        names = ["table"] if len(sizes) == 1 else [f"table/part_{place}" for place in range(len(sizes))]
        parts = [self._add_rows(*each) for each in zip(names, sizes, strict=True)]
        self.table = row_shards.join_parts(parts)[0]
        super().build(input_shape)

    def _add_rows(self, name: str, rows: int) -> tf.Variable:
        # A zeroed piece of memory; `tf.zeros` would be copied, and a table may take half of all memory.
        return self.add_weight(
            name=name,
            shape=(rows, self.dim),
            dtype=self.table_dtype,
            initializer=lambda shape, dtype=None, **_: tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True),
            experimental_autocast=False,
        )

    def draw_rows(self, chosen: npt.NDArray[np.bool_], seed: int, scale: float = 1.0) -> None:
        """Gives random content to those of the chosen rows that are all zero, in place and part by part.

        A row's content depends on the seed, the table's name and the row's place alone.

        Args:
            chosen: `[rows]`.
            seed: of the experiment.
            scale: `ModelConfig.initial_scale`.
        """
        for start, stop in parts_of(self.rows, self.dim):
            rows = np.flatnonzero(chosen[start:stop])
            if not len(rows):
                continue
            held = row_shards.gather_rows(self.table, start + rows)
            empty = ~tf.reduce_any(held != 0, axis=1).numpy()
            if empty.all() and len(rows) == stop - start:
                row_shards.write_rows(self.table, start, self._initial(start, stop, seed, scale))
            elif empty.any():
                rows = rows[empty]
                row_shards.scatter_rows(self.table, start + rows, self._initial(start, stop, seed, scale)[rows])

    def _initial(self, start: int, stop: int, seed: int, scale: float) -> npt.NDArray[np.float32]:
        return initial_rows(start, stop, self.dim, [seed, zlib.crc32(self.name.encode())], scale)

    def call(
        self, ids: tf.Tensor, offsets: Sequence[int], mean: bool = False, paired: Sequence[int] = (0,)
    ) -> tf.Tensor:
        """Looks embeddings up.

        Args:
            ids: int32 `[batch, columns]`, -1 for no value.
            offsets: one per column, or one for all.
            mean: averages over the columns, counting only values that are there. All columns are of one feature then.
            paired: one per column, or one for all: the buckets of a feature whose ids have two rows (`Hash.hashes`),
                whose embeddings are added; 0 for one whose ids are its rows.

        Returns:
            float32 `[batch, columns, dim]`, zero for a missing value; with `mean`, `[batch, dim]`, zero if all values
            are missing.
        """
        number = tf.int32 if self.rows <= tf.int32.max else tf.int64  # small ones are faster to look up
        present = ids >= 0
        if not any(paired):
            rows = tf.cast(ids, number) + tf.constant(list(offsets), number)
            return self._mean(rows, present) if mean else self._look_up(rows, present)
        # The second rows are further columns; a feature with one row has none there.
        buckets = tf.constant([max(1, size) for size in paired], tf.int64)
        first, second = pair_rows(tf.maximum(tf.cast(ids, tf.int64), 0), buckets)
        double = tf.constant([size > 0 for size in paired])
        rows = tf.where(double, first, tf.cast(ids, tf.int64)), second
        rows = tf.concat([tf.cast(part, number) + tf.constant(list(offsets), number) for part in rows], axis=1)
        present = tf.concat([present, present & double], axis=1)
        if mean:
            return 2.0 * self._mean(rows, present)
        one, other = tf.split(self._look_up(rows, present), 2, axis=1)
        return one + other

    def _look_up(self, rows: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Reads rows, zero where there is no value."""
        embeddings = tf.cast(row_shards.gather_rows(self.table, tf.where(present, rows, 0)), tf.float32)
        return embeddings * tf.cast(present, tf.float32)[..., tf.newaxis]

    def _mean(self, rows: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Reads each distinct row once: neither the batch's embeddings nor their gradients exist one by one."""
        segments = tf.where(present)[:, 0]
        # Nobody needs the counts. But unique, gather and mean are what TensorFlow's graph optimizer takes for an
        # embedding lookup (SimplifyEmbeddingLookupStage): it makes the mean read the variable as a whole, and one that
        # is updated by rows is copied whenever it is read: the table, at every step.
        distinct, places, _ = tf.unique_with_counts(tf.boolean_mask(rows, present))
        embeddings = tf.cast(row_shards.gather_rows(self.table, distinct), tf.float32)
        return tf.sparse.segment_mean(embeddings, places, segments, num_segments=tf.shape(rows)[0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("rows", "dim", "table_dtype", "shards")}
        return {**super().get_config(), **own}
