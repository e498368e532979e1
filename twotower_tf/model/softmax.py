"""Softmax over a batch's items in one pass, without a `[batch, batch]` tensor or its gradient in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Logits of one block of rows, in elements: 4 MB, which stays in a core's cache while it is read several times.
BLOCK_ELEMENTS = 1 << 20

_IMPOSSIBLE = -1e9  # a masked logit: its probability underflows to zero in float32


@tf.custom_gradient  # type: ignore[untyped-decorator]
def in_batch_softmax(
    users: tf.Tensor, items: tf.Tensor, hits: tf.Tensor, weights: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor], Callable[..., Any]]:
    """Weighted softmax cross-entropy of each row's own item among the batch's, and the rank it reaches.

    With z(b, j) = users[b] · items[j]: loss = Σ_b weights[b] · (ln Σ_j exp z(b, j) - z(b, b)), where a hit (b, j) with
    j != b is left out of the sum. Its gradients Σ_b weights[b] · (p(b, j) - [b = j]) · users[b] for items[j], and
    likewise for users, are made in the same pass, block by block of rows.

    Args:
        users: `[batch, dim]` float32.
        items: `[batch, dim]` float32; row b is the positive of user b.
        hits: `[hits, 2]` int32, (row, column) of what is no negative, every (b, b) among them, sorted by row.
        weights: `[batch]` float32.

    Returns:
        The loss, float32 `[]`, and int32 `[batch]` ranks: how many other items score higher. Gradients flow through
        the loss to `users` and `items`.
    """
    batch, dim = tf.shape(users)[0], users.shape[1]
    size = tf.maximum(1, BLOCK_ELEMENTS // tf.maximum(batch, 1))
    blocks = (batch + size - 1) // size
    bounds = tf.searchsorted(hits[:, 0], tf.range(batch + 1))

    def block(step: Any, loss: Any, grad_items: Any, grad_users: Any, ranks: Any) -> Any:
        rows = tf.range(step * size, tf.minimum((step + 1) * size, batch))
        user, own, weight = users[rows[0] : rows[-1] + 1], items[rows[0] : rows[-1] + 1], tf.gather(weights, rows)
        scores = tf.matmul(user, items, transpose_b=True)
        positive = tf.reduce_sum(user * own, axis=1, keepdims=True)
        first, last = bounds[rows[0]], bounds[rows[-1] + 1]
        places = hits[first:last] - [rows[0], 0]
        # The row's own place too: it is added back below.
        scores = tf.tensor_scatter_nd_update(scores, places, tf.fill([last - first], _IMPOSSIBLE))
        peak = tf.maximum(tf.reduce_max(scores, axis=1, keepdims=True), positive)
        others = tf.exp(scores - peak)
        itself = tf.exp(positive - peak)
        total = tf.reduce_sum(others, axis=1, keepdims=True) + itself
        loss += tf.reduce_sum(weight * tf.squeeze(peak + tf.math.log(total) - positive, axis=1))
        scale = weight[:, tf.newaxis] / total
        short = itself * scale - weight[:, tf.newaxis]  # weight · (p(b, b) - 1)
        grad_users = grad_users.write(step, tf.matmul(others, items) * scale + short * own)
        grad_items += tf.matmul(others, user * scale, transpose_a=True)
        grad_items = tf.tensor_scatter_nd_add(grad_items, rows[:, tf.newaxis], short * user)
        ranks = ranks.write(step, tf.reduce_sum(tf.cast(scores > positive, tf.int32), axis=1))
        return step + 1, loss, grad_items, grad_users, ranks

    _, loss, grad_items, grad_users, ranks = tf.while_loop(
        lambda step, *_: step < blocks,
        block,
        (
            0,
            0.0,
            tf.zeros_like(items),
            tf.TensorArray(tf.float32, blocks, infer_shape=False, element_shape=[None, dim]),
            tf.TensorArray(tf.int32, blocks, infer_shape=False, element_shape=[None]),
        ),
        parallel_iterations=1,
    )
    grad_users = tf.ensure_shape(grad_users.concat(), users.shape)

    def gradient(upstream: tf.Tensor, _: Any) -> tuple[tf.Tensor, tf.Tensor, None, None]:
        return upstream * grad_users, upstream * grad_items, None, None

    return (loss, tf.ensure_shape(ranks.concat(), weights.shape)), gradient
