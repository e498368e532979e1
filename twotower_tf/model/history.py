"""History encoders: from the embeddings of a user's past items to one vector per user.

A new encoder is a Keras layer under `@registers("name")`, chosen by `History(encoder="name")`:

    @registers("max")
    class MaxHistory(keras.layers.Layer):
        def call(self, embedded, present):
            largest = tf.reduce_max(tf.where(present[..., tf.newaxis], embedded, embedded.dtype.min), axis=1)
            return tf.where(tf.reduce_any(present, axis=1, keepdims=True), largest, 0.0)

Its result must not depend on padding, whose length differs from batch to batch: export compares the exported tower's
vectors with those of training. An encoder of this package also has its name in
`twotower_tf.config.history_encoders`, so that configurations with it are read without TensorFlow; one with
options has a configuration class there, under `history_encoder("name")`.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import ExperimentConfig, History, feature_name
from twotower_tf.config.features import BaseFeature, SideName
from twotower_tf.config.history_encoders import add_history_encoder, encoder_name, is_causal
from twotower_tf.model.embeddings import EmbeddingTable, Placement, plan_tables
from twotower_tf.model.layers import Dense, Dropout, TimeGapEmbedding
from twotower_tf.model.transformer import BLOCKS, causal_mask, mask_unseen

MEAN = "mean"  # `EmbeddingTable` averages without the embeddings one by one
RECENCY_DECAY = 0.9

Encoder = TypeVar("Encoder", bound=type[keras.layers.Layer])
_ENCODERS: dict[str, type[keras.layers.Layer]] = {}


def registers(name: str) -> Callable[[Encoder], Encoder]:
    """Makes a layer class the encoder `name` of `History.encoder`.

    The class is created with `name=` alone; where a configuration class has the name, also with that class's fields,
    `length=` (of the history), `seed=` and `mixed=` (see `layers.Dense`). Its `call(embedded, present)` takes float32
    `[batch, length, dim]`, oldest first and zero where there is no value, and bool `[batch, length]`, true where there
    is one. It returns float32 `[batch, dim]`; a causal one, `[batch, length, dim]`, where a row depends on the values
    up to its place alone. With an attribute `reads_context` that is true it also takes `context=`, float32
    `[batch, width]`, the user's other features. A causal one with an attribute `takes_places` that is true takes
    `places=` and `newest=` as well, see `SelfAttentionHistory.call`, and returns these rows alone. Length differs from
    batch to batch and may be 0. The layer may have weights; its operations are exported with the user tower, so they
    have to be TensorFlow's own.

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


def encode(
    feature: BaseFeature,
    table: EmbeddingTable,
    ids: tf.Tensor,
    place: Placement,
    name: str,
    config: ExperimentConfig,
    context: Sequence[tf.Tensor] = (),
    places: tf.Tensor | None = None,
    gaps: tf.Tensor | None = None,
) -> tf.Tensor:
    """Encodes the values of a history, or of another feature with several values, onto their Keras input.

    Args:
        feature: the configured feature.
        table: the embedding table of the items' feature.
        ids: Keras tensor int32 `[batch, length]`, oldest first, -1 for no value.
        place: of the feature's embeddings in the table.
        name: of the encoder's layer.
        config: the experiment.
        context: Keras tensors `[batch, width]` of the user's other features.
        places: of a causal encoder that is trained on sequences: Keras tensor int32 `[rows, 2]`, by row the place of
            its sequence in the batch and how many of its values the row has seen. None takes all values of each
            history.
        gaps: of a history with `time_gaps`: Keras tensor int32 `[batch, length]`, the buckets of the gaps of `ids`.

    Returns:
        The Keras tensor float32 `[batch, dim]`, or `[rows, dim]` with `places`; of a history without a value, zero with
        the encoders defined here.
    """
    encoder = feature.sequence_encoder()
    causal, mean, length = is_causal(encoder), encoder == MEAN, feature.inputs()[0].max_length
    if causal:
        # A place beyond the configured length, which signatures have, is padding.
        ids, gaps = ids[:, :length], None if gaps is None else gaps[:, :length]
    embedded = table(ids, offsets=[place.offset], mean=mean, paired=[place.paired])
    if gaps is not None:
        embedded += TimeGapEmbedding(place.dim, mean, name=f"{name}_time_gaps")(gaps, ids >= 0)
    if mean:
        return embedded
    cls, options = _ENCODERS[encoder_name(encoder)], {}
    if not isinstance(encoder, str):
        seed = config.seed + zlib.crc32(name.encode())
        options = {each.name: getattr(encoder, each.name) for each in dataclasses.fields(encoder)}  # type: ignore[arg-type]
        options |= {"length": length, "seed": seed, "mixed": config.train.mixed}
        options.pop("type")
    layer = cls(name=name, **options)
    if causal:
        newest, places = places is None, find_newest_places(ids) if places is None else places
        if getattr(layer, "takes_places", False):
            return layer(embedded, ids >= 0, places=places, newest=newest)
        return TakePlaces(name=f"{name}_places")(layer(embedded, ids >= 0), places)
    given = {"context": tf.concat(list(context), axis=1)} if getattr(layer, "reads_context", False) else {}
    return layer(embedded, ids >= 0, **given)


def find_newest_places(ids: tf.Tensor) -> tf.Tensor:
    """Returns `places` of each history's newest value: int32 `[batch, 2]` of ids `[batch, length]`."""
    shape = tf.shape(ids)
    last = tf.reduce_max(tf.where(ids >= 0, tf.range(1, shape[1] + 1), 0), axis=1)
    return tf.stack([tf.range(shape[0]), tf.maximum(last, 0)], axis=1)


class TakePlaces(keras.layers.Layer):
    """Takes rows of sequences, `[rows, 2]` of (sequence, values seen); without a value, zeros."""

    def call(self, sequence: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Maps `[batch, length, dim]` and `[rows, 2]` to `[rows, dim]`."""
        return take_places(sequence, places)


def take_places(sequence: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """See `TakePlaces`."""
    return tf.gather_nd(tf.pad(sequence, [[0, 0], [1, 0], [0, 0]]), places)


def count_numbers(config: ExperimentConfig, feature: BaseFeature) -> int:
    """Counts the numbers that one history's embeddings and its encoder make; a mean needs no embedding by itself."""
    encoder, length = feature.sequence_encoder(), feature.inputs()[0].max_length
    timed = isinstance(feature, History) and bool(feature.time_gaps)
    if encoder == MEAN and not timed:
        return 0
    side: SideName = "user" if any(each is feature for each in config.user_features) else "item"
    dim = plan_tables(config)[side, feature_name(feature)].dim
    if encoder == MEAN:
        return length * dim
    per_place = getattr(_ENCODERS[encoder_name(encoder)], "count_numbers", lambda options, length, dim: 0)
    return length * (dim * (2 if timed else 1) + int(per_place(encoder, length, dim)))


@registers("recency")
class RecencyHistory(keras.layers.Layer):
    """Weighted mean Σ_i 0.9^age_i e_i / Σ_i 0.9^age_i; the age is the number of values after it, 0 for the newest."""

    def call(self, embedded: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Maps `[batch, length, dim]` and `[batch, length]` to `[batch, dim]`."""
        weights = tf.where(present, tf.pow(RECENCY_DECAY, _ages(present)), 0.0)
        total = tf.reduce_sum(embedded * weights[..., tf.newaxis], axis=1)
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))


@registers("last")
class LastHistory(keras.layers.Layer):
    """The embedding of the newest value."""

    def call(self, embedded: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Maps `[batch, length, dim]` and `[batch, length]` to `[batch, dim]`."""
        newest = tf.logical_and(present, tf.equal(_ages(present), 0.0))
        return tf.reduce_sum(embedded * tf.cast(newest, tf.float32)[..., tf.newaxis], axis=1)


class OptionsLayer(keras.layers.Layer):
    """Base class of encoders with options: keeps the constructor's arguments as attributes.

    Attributes:
        length: places of the history.
        seed: of the layer's random numbers.
        mixed: see `layers.Dense`.
    """

    def __init__(
        self, *, length: int, seed: int = 0, mixed: bool = False, name: str | None = None, **options: Any
    ) -> None:
        """Takes the fields of the encoder's configuration class, and what `registers` says."""
        super().__init__(name=name)
        self.arguments = {**options, "length": length, "seed": seed, "mixed": mixed}
        for key, value in self.arguments.items():
            setattr(self, key, value)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, **self.arguments}


@registers("attention")
class AttentionHistory(OptionsLayer):
    """Weighted mean Σ_i a_i e_i with a = softmax(s), of the scores s_i that `config.Attention` describes.

    query="learned": s_i = v · tanh(W e_i + b) + p(age_i). query="user", with a projection q of the user's other
    features: s_i = v · relu(W [e_i, q, e_i ∘ q, e_i - q] + b) + p(age_i). The age is the number of later values.
    """

    query: str
    hidden: int
    positions: bool

    @property
    def reads_context(self) -> bool:
        """Whether the user's other features are the query."""
        return self.query == "user"

    def build(self, input_shape: Any) -> None:
        """Creates the scoring network."""
        activation = "relu" if self.reads_context else "tanh"
        self.inner = Dense(self.hidden, activation, mixed=self.mixed, name="inner")
        self.score = Dense(1, use_bias=False, name="score")
        if self.reads_context:
            self.project = Dense(int(input_shape[-1]), mixed=self.mixed, name="query")
        if self.positions:
            self.ages = self.add_weight(name="ages", shape=(self.length,), initializer="zeros")
        super().build(input_shape)

    def call(
        self,
        embedded: tf.Tensor,
        present: tf.Tensor,
        context: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Maps `[batch, length, dim]`, `[batch, length]` and the other features `[batch, width]` to `[batch, dim]`."""
        shape, dim = tf.shape(embedded), embedded.shape[-1]
        parts = embedded
        if context is not None:
            query = tf.broadcast_to(self.project(context, training=training)[:, tf.newaxis], shape)
            parts = tf.concat([embedded, query, embedded * query, embedded - query], axis=2)
        inner = self.inner(tf.reshape(parts, [-1, parts.shape[-1]]), training=training)
        scores = tf.reshape(self.score(inner, training=training), shape[:2])
        if self.positions:
            ages = tf.minimum(tf.cast(_ages(present), tf.int32), self.length - 1)
            scores += tf.gather_nd(self.ages, ages[..., tf.newaxis])  # unlike gather's, its gradient is dense
        weights = tf.where(present, tf.nn.softmax(tf.where(present, scores, -1e9)), 0.0)
        return tf.ensure_shape(tf.reduce_sum(embedded * weights[..., tf.newaxis], axis=1), [None, dim])

    @staticmethod
    def count_numbers(options: Any, length: int, dim: int) -> int:
        """Numbers per place."""
        return 2 * int(options.hidden) + (4 * dim if options.query == "user" else 0)


@registers("self_attention")
class SelfAttentionHistory(OptionsLayer):
    """A causal transformer: norm(block_n(... block_1(dropout(√d · e + p)))), with learned embeddings p of the places.

    e has d numbers. The factor is that of Vaswani et al., "Attention Is All You Need" (2017), section 3.4, and of the
    code of SASRec's authors. Without it the items are lost among what the first block adds, and a model stays at
    popularity's level for thousands of steps.
    """

    block: str
    blocks: int
    heads: int
    hidden: int | None
    dropout: float
    positions: bool
    takes_places = True

    def build(self, input_shape: Any) -> None:
        """Creates the places' embeddings and the blocks."""
        if self.positions:
            self.places = self.add_weight(
                name="places",
                shape=(self.length, int(input_shape[-1])),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )
        self.drop = Dropout(self.dropout, self.seed, name="dropout")
        self.stack = [
            BLOCKS[self.block](
                self.heads, self.hidden, self.dropout, self.seed + 10 * number, self.mixed, name=f"block_{number}"
            )
            for number in range(1, self.blocks + 1)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        super().build(input_shape)

    def call(
        self,
        embedded: tf.Tensor,
        present: tf.Tensor,
        places: tf.Tensor,
        newest: bool = False,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Encodes sequences, or what rows have seen of them.

        The last block computes the rows alone where they are not many times as many as the sequences: outside training,
        and with `newest`.

        Args:
            embedded: `[batch, length, dim]`.
            present: `[batch, length]`.
            places: int32 `[rows, 2]`, see `TakePlaces`.
            newest: whether `places` are those of `find_newest_places`, one for each sequence.
            training: whether this is a training step.

        Returns:
            `[rows, dim]`.
        """
        x = embedded * embedded.shape[-1] ** 0.5
        if self.positions:
            x += self.places[: tf.shape(embedded)[1]]
        if self.dropout:
            x = self.drop(x, training=training)
        mask = causal_mask(present)
        for block in self.stack[:-1]:
            x = block(x, mask, training=training)
        if training and not newest:
            return take_places(self.norm(self.stack[-1](x, mask, training=training)), places)
        own, seen = take_places(x, places)[:, tf.newaxis], places[:, 1]
        if not newest:
            x, present = (tf.gather(each, places[:, 0]) for each in (x, present))
        vector = self.norm(self.stack[-1](x, mask_unseen(present, seen), training=training, at=own))[:, 0]
        return tf.where(seen[:, tf.newaxis] > 0, vector, 0.0)

    @staticmethod
    def count_numbers(options: Any, length: int, dim: int) -> int:
        """Numbers per place."""
        hidden = options.hidden or (dim if options.block == "sasrec" else 4 * dim)
        return int(options.blocks * (8 * dim + 3 * hidden + 2 * options.heads * length))


@registers("gru")
class GruHistory(OptionsLayer):
    """Gated recurrent units, layer by layer; where there is no value, a state stays as it was.

    z = σ(x W_z + h U_z + b), r = σ(x W_r + h U_r + b), h' = z ∘ h + (1 - z) ∘ tanh(x W_h + r ∘ (h U_h + c) + b): Cho et
    al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), in the form of Keras's `reset_after`.
    """

    layers: int
    dropout: float

    def build(self, input_shape: Any) -> None:
        """Creates the cells."""
        self.drop = Dropout(self.dropout, self.seed, name="dropout")
        # Of a cell: `keras.layers.GRU` would bring operations of GPUs into the exported graph.
        self.stack = [
            keras.layers.RNN(
                keras.layers.GRUCell(int(input_shape[-1]), name="cell"), return_sequences=True, name=f"layer_{number}"
            )
            for number in range(1, self.layers + 1)
        ]
        super().build(input_shape)

    def call(self, embedded: tf.Tensor, present: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps `[batch, length, dim]` and `[batch, length]` to `[batch, length, dim]`."""
        # One more step, without a value: there has to be one.
        x, mask = tf.pad(embedded, [[0, 0], [0, 1], [0, 0]]), tf.pad(present, [[0, 0], [0, 1]])
        if self.dropout:
            x = self.drop(x, training=training)
        for layer in self.stack:
            x = layer(x, mask=mask, training=training)
        return x[:, :-1]

    @staticmethod
    def count_numbers(options: Any, length: int, dim: int) -> int:
        """Numbers per place."""
        return 8 * dim * int(options.layers)


def _ages(present: tf.Tensor) -> tf.Tensor:
    """Counts the values after each place, float32 `[batch, length]`."""
    return tf.cumsum(tf.cast(present, tf.float32), axis=1, exclusive=True, reverse=True)
