"""One side's network: embeddings, hidden layers, a unit-length vector."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import ExperimentConfig, feature_name
from twotower_tf.config.features import SideName
from twotower_tf.features.layout import IDS, NUMERIC, Layout
from twotower_tf.features.tower_encoder import tensor_specs
from twotower_tf.model import history
from twotower_tf.model.embeddings import EmbeddingTable, Key, Placement

VECTOR_LAYERS: dict[SideName, str] = {"user": "user_vector", "item": "ad_vector"}

_SMALLEST_NORM = 1e-6


class UnitLength(keras.layers.Layer):
    """Divides each row by its length; a row of (almost) no length becomes the diagonal, so that every one is unit."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`[batch, dim]` to unit rows `[batch, dim]`."""
        x = tf.cast(x, tf.float32)
        square = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
        too_short = square <= _SMALLEST_NORM**2  # false for NaN, which must not pass for a direction
        # Both branches of a `where` are differentiated: the unused one must be finite as well.
        unit = x * tf.math.rsqrt(tf.where(too_short, 1.0, square))
        return tf.where(too_short, tf.math.rsqrt(tf.cast(tf.shape(x)[-1], tf.float32)), unit)


class Dense(keras.layers.Dense):
    """Keras's, whose product is of bfloat16 in training where that is asked for.

    Kernel, bias, sum and output are float32, and so is all of it outside training: what is evaluated and exported does
    not depend on how it was trained.
    """

    def __init__(self, units: int, *args: Any, mixed: bool = False, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.mixed = mixed

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`[batch, n]` to `[batch, units]`."""
        if not (self.mixed and training):
            return super().call(inputs)
        narrow = tf.matmul(tf.cast(inputs, tf.bfloat16), tf.cast(self.kernel, tf.bfloat16))
        outputs = tf.cast(narrow, tf.float32)
        if self.use_bias:
            outputs = tf.nn.bias_add(outputs, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "mixed": self.mixed}


class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al., 2014) whose chance is a function of a seed and of its own count of steps.

    The count is a weight, so that a resumed training drops what it would have dropped.
    """

    def __init__(self, rate: float, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Creates the count."""
        self.steps = self.add_weight(name="steps", shape=(), dtype=tf.int64, initializer="zeros", trainable=False)
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`[batch, dim]` to the same, where in training a share `rate` is zero and the rest larger for it."""
        if not training:
            return x
        dropped = tf.nn.experimental.stateless_dropout(x, self.rate, seed=tf.stack([self.steps, self.seed]))
        self.steps.assign_add(1)
        return dropped

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


def input_name(side: SideName, key: str) -> str:
    """The name of the Keras input of an encoded tensor."""
    return f"{side}_{key}"


def inputs(config: ExperimentConfig, side: SideName) -> dict[str, keras.KerasTensor]:
    """Keras inputs of one tower, by key of the encoded tensor."""
    layout = Layout(config, side)
    return {key: keras.Input(type_spec=spec, name=input_name(side, key)) for key, spec in tensor_specs(layout).items()}


def tower(
    config: ExperimentConfig,
    side: SideName,
    encoded: Mapping[str, Any],
    tables: Mapping[str, EmbeddingTable],
    placed: Mapping[Key, Placement],
) -> Any:
    """Builds one tower onto its inputs.

    Args:
        config: the experiment.
        side: whose tower.
        encoded: Keras tensors by key, of `inputs`.
        tables: the embedding layers by name.
        placed: where each feature's embeddings lie.

    Returns:
        The Keras tensor float32 `[batch, vector_dim]` of the layer named `user_vector` or `ad_vector`.
    """
    hidden = config.model.user_hidden if side == "user" else config.model.item_hidden
    parts = _embedded(side, Layout(config, side), encoded, tables, placed)
    x = parts[0] if len(parts) == 1 else keras.layers.Concatenate(name=f"{side}_features")(parts)
    for depth, units in enumerate(hidden, 1):
        x = _block(config, x, units, f"{side}_hidden_{depth}")
    x = Dense(config.model.vector_dim, mixed=config.train.mixed, name=f"{side}_projection")(x)
    return UnitLength(name=VECTOR_LAYERS[side])(x)


def _embedded(
    side: SideName,
    layout: Layout,
    encoded: Mapping[str, Any],
    tables: Mapping[str, EmbeddingTable],
    placed: Mapping[Key, Placement],
) -> list[Any]:
    """The side's features as Keras tensors `[batch, width]`: one gather per physical table."""
    parts = []
    groups: dict[str, list[int]] = {}
    places = [placed[side, feature_name(each)] for each in layout.single]
    for column, place in enumerate(places):
        groups.setdefault(place.table, []).append(column)
    for table, columns in groups.items():
        ids = encoded[IDS] if len(columns) == len(places) else tf.gather(encoded[IDS], columns, axis=1)
        embedded = tables[table](ids, offsets=[places[column].offset for column in columns])
        parts.append(keras.layers.Reshape((len(columns) * tables[table].dim,), name=f"{side}_{table}")(embedded))
    for number, each in enumerate(layout.multivalued):
        name = feature_name(each)
        place, ids = placed[side, name], encoded[layout.values[name]]
        parts.append(
            history.encode(each.sequence_encoder(), tables[place.table], ids, place.offset, f"{side}_history_{number}")
        )
    for column, each in enumerate(layout.numeric):
        value = encoded[NUMERIC][:, column : column + 1]
        if each.embedding_dim:
            label = f"{side}_numeric_{column}_embedding"
            value = keras.layers.Dense(each.embedding_dim, use_bias=False, name=label)(value)
        parts.append(value)
    return parts


def _block(config: ExperimentConfig, x: Any, units: int, name: str) -> Any:
    """A hidden layer; with `residual`, its input is added, through a projection where the widths differ."""
    mixed = config.train.mixed
    y = Dense(units, config.model.activation, mixed=mixed, name=name)(x)
    if config.model.residual:
        fits = x.shape[-1] == units
        shortcut = x if fits else Dense(units, use_bias=False, mixed=mixed, name=f"{name}_shortcut")(x)
        y = keras.layers.Add(name=f"{name}_residual")([y, shortcut])
    if config.model.dropout:
        seed = config.seed + zlib.crc32(name.encode())
        y = Dropout(config.model.dropout, seed, name=f"{name}_dropout")(y)
    return y
