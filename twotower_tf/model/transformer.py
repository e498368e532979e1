"""Causal transformer blocks over sequences: SASRec's, and the gated block of LiGR.

Blocks take float32 `[batch, length, dim]` and a mask of `causal_mask`, and return the same shape: the row at a place
depends on the values up to there alone. With `at`, rows of some places, they return the results of these alone: the
last block need not compute more where only the newest value's vector is wanted.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.model.layers import Dense, Dropout

_MASKED = -1e9
_EPSILON = 1e-6  # of layer norms


def causal_mask(present: tf.Tensor) -> tf.Tensor:
    """Returns what is added to attention scores: 0 for a value before the query's place and for that place itself.

    Others have -1e9. The own place counts also where its value was left out: a query that has nothing else to look at
    would look at all places alike, the later ones too.

    Args:
        present: bool `[batch, length]`, true where there is a value.

    Returns:
        float32 `[batch, 1, length, length]`, by query and key.
    """
    length = tf.shape(present)[1]
    earlier = tf.linalg.band_part(tf.ones([length, length], tf.bool), -1, 0)
    seen = tf.logical_and(earlier, present[:, tf.newaxis, tf.newaxis, :])
    seen = tf.logical_or(seen, tf.eye(length, dtype=tf.bool))
    return tf.where(seen, 0.0, _MASKED)


def mask_unseen(present: tf.Tensor, seen: tf.Tensor) -> tf.Tensor:
    """Returns what is added to the scores of one query per sequence, which has seen so many of its places.

    Args:
        present: bool `[batch, length]`, true where there is a value.
        seen: int32 `[batch]`.

    Returns:
        float32 `[batch, 1, 1, length]`: 0 for a value that was seen and for the newest place, otherwise -1e9.
    """
    places = tf.range(1, tf.shape(present)[1] + 1)
    earlier, newest = places <= seen[:, tf.newaxis], tf.equal(places, seen[:, tf.newaxis])
    return tf.where((present & earlier) | newest, 0.0, _MASKED)[:, tf.newaxis, tf.newaxis]


class CausalAttention(keras.layers.Layer):
    """Multi-head attention softmax(Q Kᵀ / √d + mask) V (Vaswani et al., "Attention Is All You Need", 2017).

    Outside training, one head attends to the values x as they are, which saves two of four projections. With queries z,
    Q Kᵀ is (z W + c) xᵀ, where W = W_q W_kᵀ and c = b_q W_kᵀ, plus what is equal for all keys of a query, which the
    softmax cancels. Its rows sum to 1: so softmax(...) V W_o + b_o is softmax(...) x (W_v W_o) + b_v W_o + b_o.
    """

    def __init__(self, heads: int, mixed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.mixed = mixed

    def build(self, input_shape: Any) -> None:
        """Creates the projections."""
        self.dim = int(input_shape[-1])
        names = ("query", "key", "value", "output")
        self.projections = {name: Dense(self.dim, mixed=self.mixed, name=name) for name in names}
        for name, projection in self.projections.items():
            with tf.name_scope(name):
                projection.build((None, self.dim))
        super().build(input_shape)

    def call(self, queries: tf.Tensor, values: tf.Tensor, mask: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Maps queries `[batch, n, dim]`, values `[batch, length, dim]` and a mask to `[batch, n, dim]`."""
        if self.heads == 1 and not training:
            return self._attend_to_values(queries, values, mask)
        sources = {"query": queries, "key": values, "value": values}
        query, key, value = (
            self._split(self.projections[name](_flat(source), training=training), source)
            for name, source in sources.items()
        )
        scores = tf.matmul(query * (self.dim // self.heads) ** -0.5, key, transpose_b=True)
        mixed = tf.matmul(tf.nn.softmax(scores + mask), value)
        joined = mixed[:, 0] if self.heads == 1 else tf.transpose(mixed, [0, 2, 1, 3])
        return tf.reshape(
            self.projections["output"](tf.reshape(joined, [-1, self.dim]), training=training), _shape(queries)
        )

    def _attend_to_values(self, queries: tf.Tensor, values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Computes one head with two projections, see the class."""
        query, key, value, output = self.projections.values()
        keys = values[:, tf.newaxis]
        kernel = tf.matmul(query.kernel, key.kernel, transpose_b=True)
        bias = tf.linalg.matvec(key.kernel, query.bias)
        projected = self._split(tf.nn.bias_add(tf.matmul(_flat(queries), kernel), bias), queries)
        weights = tf.nn.softmax(self.dim**-0.5 * tf.matmul(projected, keys, transpose_b=True) + mask)
        kernel = tf.matmul(value.kernel, output.kernel)
        bias = tf.linalg.matvec(output.kernel, value.bias, transpose_a=True) + output.bias
        mixed = tf.nn.bias_add(tf.matmul(_flat(tf.matmul(weights, keys)), kernel), bias)
        return tf.reshape(mixed, _shape(queries))

    def _split(self, projected: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Maps `[batch * length, dim]` to `[batch, heads, length, dim / heads]`."""
        shape = tf.shape(like)
        if self.heads == 1:
            return tf.reshape(projected, [shape[0], 1, shape[1], self.dim])
        parts = tf.reshape(projected, [shape[0], shape[1], self.heads, self.dim // self.heads])
        return tf.transpose(parts, [0, 2, 1, 3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "heads": self.heads, "mixed": self.mixed}


class _Block(keras.layers.Layer):
    """What both blocks share: attention, two norms, two dropouts."""

    def __init__(
        self, heads: int, hidden: int | None, dropout: float, seed: int, mixed: bool = False, **kwargs: Any
    ) -> None:
        """Configures a block.

        Args:
            heads: of the attention.
            hidden: units of the feed-forward layer; None takes the block's usual multiple of the dimension.
            dropout: rate of what each half adds.
            seed: of the dropout.
            mixed: see `layers.Dense`.
            kwargs: of the layer.
        """
        super().__init__(**kwargs)
        self.heads, self.hidden, self.dropout, self.seed, self.mixed = heads, hidden, dropout, seed, mixed

    def build(self, input_shape: Any) -> None:
        """Creates the layers."""
        self.attention = CausalAttention(self.heads, self.mixed, name="attention")
        self.norms = [keras.layers.LayerNormalization(epsilon=_EPSILON, name=f"norm_{number}") for number in (1, 2)]
        self.drops = [Dropout(self.dropout, self.seed + number, name=f"dropout_{number}") for number in (1, 2)]
        super().build(input_shape)

    def _dense(self, units: int, name: str, **kwargs: Any) -> Dense:
        return Dense(units, mixed=self.mixed, name=name, **kwargs)

    def _dropped(self, number: int, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        return self.drops[number](x, training=training) if self.dropout else x

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("heads", "hidden", "dropout", "seed", "mixed")}
        return {**super().get_config(), **own}


class SasrecBlock(_Block):
    """SASRec's block: y = q + attention(q, x) with q = norm(x), then z + feed_forward(z) with z = norm(y).

    Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), section III.B, with the residual around
    the normed queries of its authors' code; feed_forward(z) = relu(z W₁ + b₁) W₂ + b₂.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the layers."""
        dim = int(input_shape[-1])
        self.inner = self._dense(self.hidden or dim, "inner", activation="relu")
        self.outer = self._dense(dim, "outer")
        super().build(input_shape)

    def call(
        self, x: tf.Tensor, mask: tf.Tensor, training: bool | None = None, at: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Maps `[batch, length, dim]` and a mask to the same shape, or to that of `at` `[batch, n, dim]`."""
        query = self.norms[0](x if at is None else at)
        attended = self.attention(query, x, mask, training=training)
        z = self.norms[1](query + self._dropped(0, attended, training))
        added = self.outer(self.inner(_flat(z), training=training), training=training)
        return z + self._dropped(1, tf.reshape(added, _shape(z)), training)


class LigrBlock(_Block):
    """LiGR's block: x + σ(x G₁ + b₁) ∘ attention(norm(x)), then y + σ(y G₂ + b₂) ∘ feed_forward(norm(y)).

    "From Features to Transformers: Redefining Ranking for Scalable Impact" (2025), as in eSASRec; feed_forward is
    SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020): (swish(z W) ∘ z V) U without biases.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the layers."""
        dim = int(input_shape[-1])
        hidden = self.hidden or 4 * dim
        self.gates = [self._dense(dim, f"gate_{number}", activation="sigmoid") for number in (1, 2)]
        self.inner = self._dense(hidden, "inner", activation="swish", use_bias=False)
        self.linear = self._dense(hidden, "linear", use_bias=False)
        self.outer = self._dense(dim, "outer", use_bias=False)
        super().build(input_shape)

    def call(
        self, x: tf.Tensor, mask: tf.Tensor, training: bool | None = None, at: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Maps `[batch, length, dim]` and a mask to the same shape, or to that of `at` `[batch, n, dim]`."""
        values = self.norms[0](x)
        queries, own = (values, x) if at is None else (self.norms[0](at), at)
        attended = self.attention(queries, values, mask, training=training)
        y = own + self._gate(0, own, training) * self._dropped(0, attended, training)
        z = _flat(self.norms[1](y))
        product = self.inner(z, training=training) * self.linear(z, training=training)
        added = tf.reshape(self.outer(product, training=training), _shape(y))
        return y + self._gate(1, y, training) * self._dropped(1, added, training)

    def _gate(self, number: int, x: tf.Tensor, training: bool | None) -> tf.Tensor:
        return tf.reshape(self.gates[number](_flat(x), training=training), _shape(x))


BLOCKS: dict[str, type[_Block]] = {"sasrec": SasrecBlock, "ligr": LigrBlock}


def _flat(x: tf.Tensor) -> tf.Tensor:
    """Maps `[batch, length, dim]` to `[batch * length, dim]`: one matrix product instead of one per row."""
    return tf.reshape(x, [-1, x.shape[-1]])


def _shape(x: tf.Tensor) -> tf.Tensor:
    """Returns the shape to reshape to, with the dimension known when the graph is built."""
    shape = tf.shape(x)
    return tf.stack([shape[0], shape[1], x.shape[-1]])
