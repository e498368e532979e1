"""History encoders: from the embeddings of a user's past items to one vector per user.

A new encoder is a Keras layer under `@registers("name")`, chosen by `History(encoder="name")`:

    @registers("max")
    class MaxHistory(keras.layers.Layer):
        def call(self, embedded, present):
            return tf.reduce_max(tf.where(present[..., tf.newaxis], embedded, 0.0), axis=1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config.history_encoders import add_history_encoder
from twotower_tf.model.embeddings import EmbeddingTable

MEAN = "mean"  # `EmbeddingTable` averages without the embeddings one by one
RECENCY_DECAY = 0.9

Encoder = TypeVar("Encoder", bound=type[keras.layers.Layer])
_ENCODERS: dict[str, type[keras.layers.Layer]] = {}


def registers(name: str) -> Callable[[Encoder], Encoder]:
    """Makes a layer class the encoder `name` of `History.encoder`.

    The class is created with `name=` alone. Its `call(embedded, present)` takes float32 `[batch, length, dim]`, oldest
    first and zero where there is no value, and bool `[batch, length]`, true where there is one. It returns float32
    `[batch, dim]`. Length differs from batch to batch and may be 0. The layer may have weights; its operations are
    exported with the user tower, so they have to be TensorFlow's own.

    Raises:
        ValueError: for a name that another class has.
    """

    def register(cls: Encoder) -> Encoder:
        if name == MEAN or _ENCODERS.get(name, cls) is not cls:
            raise ValueError(f"history encoder: invalid name {name!r} (already registered); choose another name")
        _ENCODERS[name] = cls
        add_history_encoder(name)
        return cls

    return register


def encode(encoder: str, table: EmbeddingTable, ids: tf.Tensor, offset: int, name: str) -> tf.Tensor:
    """Encodes histories onto their Keras input.

    Args:
        encoder: of `History.encoder`.
        table: the embedding table of the items' feature.
        ids: Keras tensor int32 `[batch, length]`, oldest first, -1 for no value.
        offset: the feature's first row in the table.
        name: of the encoder's layer.

    Returns:
        The Keras tensor float32 `[batch, dim]`; of a history without a value, zero with the encoders defined here.
    """
    if encoder == MEAN:
        return table(ids, offsets=[offset], mean=True)
    return _ENCODERS[encoder](name=name)(table(ids, offsets=[offset]), ids >= 0)


@registers("recency")
class RecencyHistory(keras.layers.Layer):
    """Weighted mean Σ_i 0.9^age_i e_i / Σ_i 0.9^age_i; the age is the number of values after it, 0 for the newest."""

    def call(self, embedded: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """`[batch, length, dim]` and `[batch, length]` to `[batch, dim]`."""
        weights = tf.where(present, tf.pow(RECENCY_DECAY, _ages(present)), 0.0)
        total = tf.reduce_sum(embedded * weights[..., tf.newaxis], axis=1)
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))


@registers("last")
class LastHistory(keras.layers.Layer):
    """The embedding of the newest value."""

    def call(self, embedded: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """`[batch, length, dim]` and `[batch, length]` to `[batch, dim]`."""
        newest = tf.logical_and(present, tf.equal(_ages(present), 0.0))
        return tf.reduce_sum(embedded * tf.cast(newest, tf.float32)[..., tf.newaxis], axis=1)


def _ages(present: tf.Tensor) -> tf.Tensor:
    """Counts the values after each place, float32 `[batch, length]`."""
    return tf.cumsum(tf.cast(present, tf.float32), axis=1, exclusive=True, reverse=True)
