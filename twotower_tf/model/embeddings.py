"""Embedding tables: features of one dimension and one use share one physical table, each at its own offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import ExperimentConfig, History, Numeric, feature_name
from twotower_tf.features import columns
from twotower_tf.features.inputs import SideName, side_features

_DRAWN_AT_ONCE = 1 << 24  # random numbers, 64 MB

Key = tuple[SideName, str]  # a feature: side and name


@dataclass(frozen=True)
class Placement:
    """Where a feature's embeddings lie.

    Attributes:
        table: name of the physical table.
        offset: its first row there.
        buckets: its number of rows.
        dim: of an embedding.
    """

    table: str
    offset: int
    buckets: int
    dim: int


def plan(config: ExperimentConfig) -> dict[Key, Placement]:
    """Places every categorical feature.

    Tables used by the user tower alone, the item tower alone and by both are apart, so that an exported tower holds
    no row that it cannot read.
    """
    features: dict[Key, Any] = {
        (side, feature_name(each)): each
        for side in ("item", "user")
        for each in side_features(config, side)
        if not isinstance(each, Numeric)
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
        buckets = columns.table_buckets(each, config)
        placed[root] = Placement(table, filled.get(table, 0), buckets, dim)
        filled[table] = filled.get(table, 0) + buckets
    return {key: placed[root] for key, root in roots.items()}


def _root(key: Key, feature: Any, features: Mapping[Key, Any]) -> Key:
    """The feature whose table this one uses: itself, or the one it shares with."""
    if isinstance(feature, History):
        return _root(("item", feature.of), features["item", feature.of], features)
    if not feature.shared_with:
        return key
    own = (key[0], feature.shared_with)
    return own if own in features else ("item" if key[0] == "user" else "user", feature.shared_with)


def tables(config: ExperimentConfig) -> dict[str, EmbeddingTable]:
    """One layer per physical table of the plan."""
    rows: dict[str, int] = {}
    dims: dict[str, int] = {}
    for placement in plan(config).values():
        rows[placement.table] = max(rows.get(placement.table, 0), placement.offset + placement.buckets)
        dims[placement.table] = placement.dim
    return {name: EmbeddingTable(rows[name], dims[name], name=name) for name in sorted(rows)}


class EmbeddingTable(keras.layers.Layer):
    """A table `[rows, dim]` that is read at bucket ids plus each column's offset."""

    def __init__(self, rows: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.dim = dim

    def build(self, input_shape: Any) -> None:
        """Creates the table; the scale keeps a sum of a few embeddings near unit size."""
        self.table = self.add_weight(name="table", shape=(self.rows, self.dim), initializer="zeros")
        scale = self.dim**-0.5
        size = max(1, _DRAWN_AT_ONCE // self.dim)
        with tf.init_scope():  # part by part: a table drawn at once would take its own size in scratch, twice
            for start in range(0, self.rows, size):
                stop = min(self.rows, start + size)
                self.table[start:stop].assign(tf.random.uniform((stop - start, self.dim), -scale, scale))
        super().build(input_shape)

    def call(self, ids: tf.Tensor, offsets: Sequence[int], mean: bool = False) -> tf.Tensor:
        """Looks embeddings up.

        Args:
            ids: int32 `[batch, columns]`, -1 for no value.
            offsets: one per column, or one for all.
            mean: averages over the columns, counting only values that are there.

        Returns:
            float32 `[batch, columns, dim]`, zero where there is no value; with `mean`, `[batch, dim]`, zero where there
            is none at all.
        """
        rows = tf.cast(ids, tf.int64) + tf.constant(list(offsets), tf.int64)
        present = ids >= 0
        if mean:
            return self._mean(rows, present)
        return tf.gather(self.table, tf.where(present, rows, 0)) * tf.cast(present, self.compute_dtype)[..., tf.newaxis]

    def _mean(self, rows: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Reads each distinct row once: neither the batch's embeddings nor their gradients exist one by one."""
        segments = tf.where(present)[:, 0]
        distinct, places = tf.unique(tf.boolean_mask(rows, present))
        embeddings = tf.gather(self.table, distinct)
        return tf.sparse.segment_mean(embeddings, places, segments, num_segments=tf.shape(rows)[0])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "rows": self.rows, "dim": self.dim}
