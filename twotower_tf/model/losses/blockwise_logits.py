"""Losses over a batch's logits in blocks, without a `[batch, columns]` tensor or its gradient in memory.

As in FlashAttention (Dao et al., 2022), logits are computed in blocks of rows, reduced to row statistics and multiplied
into gradients at once, so that no logit is stored or recomputed. Users are the queries, shared candidates the keys:

    for each shard of the batch (in parallel), for each block of rows:
        logits      = queries_aug[rows] @ keys_aug.T      # users · columns + bias - row_shift; hits get IMPOSSIBLE
        grad_logits, row_stat = term.grad_logits(logits)  # exp(logits - row max), or f'(logits); up to a row's scale
        key_sums    = grad_logits @ keys_and_ones         # the last column is the running sum of the row
        row_loss, row_scale, grad_reference = term.row_loss(rows, key_sums[:, -1], row_stat)
        grad_users[rows] = key_sums[:, :-1] * row_scale
        grad_columns    += grad_logits.T @ (users[rows] * row_scale)
        loss            += sum(row_loss)

The products of a block may be bfloat16, which has three digits. `row_shift` is the value that a row's logits are
compared with, its own item's logit or a threshold: logits near it are small, and so is their rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import tensorflow as tf

# Logits per block: 4 MB, which stay in the processor's cache while they are read several times.
BLOCK_ELEMENTS = 1 << 20

# Parts of a batch that are processed in parallel: single-threaded operations of one overlap with those of the other.
_SHARDS = 2

# Rows of a batch whose own items are ranked among the columns, for the metrics. The batch is in random order, so the
# first rows are a sample; ranking all rows would take a fifth of the step's time.
RANKED = 256

IMPOSSIBLE = -1e9  # logit of a masked candidate: its exponential is zero
_SAFE_RANGE = 75.0  # e^-75 / 10^5 is a normal number of float32 and bfloat16
_PAD_MULTIPLE = 16  # columns are padded to a multiple of it, as products of odd sizes are slower


class _RowTerm(Protocol):
    """The part of a blockwise loss that depends on its formula.

    Attributes:
        row_shift: `[batch]` float32, subtracted from the row's logits.
        padding_logit: logit of the first padding column; the others have `IMPOSSIBLE`.
    """

    row_shift: tf.Tensor
    padding_logit: float

    def grad_logits(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns d loss / d logits `[rows, columns + padding]` up to a scale per row, and a row statistic `[rows]`."""
        ...

    def row_loss(self, rows: slice, sums: tf.Tensor, row_stat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the rows' losses, the scales of their `grad_logits`, and the gradients of their reference.

        Args:
            rows: rows of the block.
            sums: `[rows]`, sums of `grad_logits` over the columns.
            row_stat: `[rows]`, the statistic of `grad_logits`.
        """
        ...


@dataclass(frozen=True)
class LogitBlocks:
    """A batch of rows (queries) and the candidates they share (columns, keys).

    Attributes:
        users: `[batch, dim]` float32.
        columns: `[columns, dim]` float32.
        bias: `[columns]` float32, added to the logits of a column; `IMPOSSIBLE` for an empty one.
        hits: `[hits, 2]` int32 accidental hits (row, column), sorted by row, distinct.
        own: `[batch]` float32, logits of the rows' own items, for their ranks.
        weights: `[batch]` float32, row weights.
        products: dtype of the matrix products; sums over blocks are float32.
    """

    users: tf.Tensor
    columns: tf.Tensor
    bias: tf.Tensor
    hits: tf.Tensor
    own: tf.Tensor
    weights: tf.Tensor
    products: tf.DType = tf.float32


def log_sum_exp(blocks: LogitBlocks, reference: tf.Tensor, positive: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes Σ_b weights[b] · (ln(exp reference[b] + Σ_j exp z(b, j)) - positive[b]), and the ranks of own items.

    Args:
        blocks: the batch; z(b, j) = users[b] · columns[j] + bias[j], minus infinity for a hit.
        reference: `[batch]` float32.
        positive: `[batch]` float32.

    Returns:
        The loss float32 `[]`, and ranks int32 `[batch]`: the number of columns with a larger logit than `own`, -1 for
        rows after the first `RANKED`. Gradients flow to users, columns, `reference` and `positive`.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(users: tf.Tensor, columns: tf.Tensor, reference: tf.Tensor, positive: tf.Tensor) -> Any:
        given = replace(blocks, users=users, columns=columns)
        loss, ranks, *gradients = _sweep(_LogSumExp(given, reference, positive), given)

        def gradient(upstream: tf.Tensor, _: Any) -> tuple[tf.Tensor, ...]:
            return tuple(upstream * each for each in (*gradients, -blocks.weights))

        return (loss, ranks), gradient

    return run(blocks.users, blocks.columns, reference, positive)  # type: ignore[no-any-return]


Step = Literal["hinge", "logistic"]


def sum_above(step: Step, blocks: LogitBlocks, threshold: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes Σ_b weights[b] · Σ_j f(z(b, j) - threshold[b]), and the ranks of own items.

    Args:
        step: f(x) is max(0, x) for "hinge" and ln(1 + exp x) for "logistic".
        blocks: the batch.
        threshold: `[batch]` float32.

    Returns:
        As `log_sum_exp`; gradients flow to users, columns and `threshold`.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(users: tf.Tensor, columns: tf.Tensor, threshold: tf.Tensor) -> Any:
        term = _SumAbove(step, threshold, blocks.weights)
        loss, ranks, *gradients = _sweep(term, replace(blocks, users=users, columns=columns))

        def gradient(upstream: tf.Tensor, _: Any) -> tuple[tf.Tensor, ...]:
            return tuple(upstream * each for each in gradients)

        return (loss, ranks), gradient

    return run(blocks.users, blocks.columns, threshold)  # type: ignore[no-any-return]


class _LogSumExp:
    """The term of `log_sum_exp`; the row shift is the own item's logit, clipped to the range of the columns' logits.

    Logits differ by at most 2 · max|users| · max|columns| + max bias - min bias. If that is below 75, a softmax over
    the columns and a padding column of logit 0 is enough: exp z(b, j) is the ratio of two of its values, neither of
    which underflows. Otherwise the row max is computed and subtracted.
    """

    padding_logit = 0.0

    def __init__(self, blocks: LogitBlocks, reference: tf.Tensor, positive: tf.Tensor) -> None:
        bias = blocks.bias
        reach = _max_norm(blocks.users) * _max_norm(blocks.columns)
        top = reach + tf.maximum(tf.reduce_max(bias), 0.1 * IMPOSSIBLE)
        bottom = -reach + tf.reduce_min(tf.where(bias > IMPOSSIBLE, bias, top))
        self._within_range = top - bottom < _SAFE_RANGE
        self.row_shift = tf.clip_by_value(blocks.own, tf.minimum(bottom, top), top)
        self._reference, self._positive, self._weights = reference, positive, blocks.weights
        self._columns = tf.shape(bias)[0]

    def grad_logits(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def by_row_max() -> tuple[tf.Tensor, tf.Tensor]:
            # Bounded, so that the masked logits of a row without candidates stay masked.
            row_max = tf.reduce_max(logits[:, : self._columns], axis=1)
            row_max = tf.maximum(row_max, tf.cast(0.1 * IMPOSSIBLE, logits.dtype))
            return tf.exp(tf.minimum(logits - row_max[:, tf.newaxis], 0)), tf.cast(row_max, tf.float32)

        def by_softmax() -> tuple[tf.Tensor, tf.Tensor]:
            softmax = tf.nn.softmax(logits)
            return softmax, -tf.math.log(tf.cast(softmax[:, self._columns], tf.float32))

        return tf.cond(self._within_range, by_softmax, by_row_max)  # type: ignore[no-any-return]

    def row_loss(self, rows: slice, sums: tf.Tensor, row_stat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        reference, weights = self._reference[rows], self._weights[rows]
        log_sum = tf.where(sums > 0.0, self.row_shift[rows] + row_stat + tf.math.log(sums), IMPOSSIBLE)
        larger = tf.maximum(log_sum, reference)
        total = larger + tf.math.log(tf.exp(log_sum - larger) + tf.exp(reference - larger))
        row_scale = tf.math.divide_no_nan(weights * tf.exp(log_sum - total), sums)
        return weights * (total - self._positive[rows]), row_scale, weights * tf.exp(reference - total)


class _SumAbove:
    """The term of `sum_above`; the row shift is the threshold."""

    padding_logit = IMPOSSIBLE

    def __init__(self, step: Step, threshold: tf.Tensor, weights: tf.Tensor) -> None:
        self._step = step
        self.row_shift, self._weights = threshold, weights

    def grad_logits(self, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        above = tf.cast(logits, tf.float32)
        if self._step == "hinge":
            return tf.cast(logits > 0, logits.dtype), tf.reduce_sum(tf.nn.relu(above), axis=1)
        return tf.sigmoid(logits), tf.reduce_sum(tf.nn.softplus(above), axis=1)

    def row_loss(self, rows: slice, sums: tf.Tensor, row_stat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        weights = self._weights[rows]
        return weights * row_stat, weights, -weights * sums


def _sweep(term: _RowTerm, blocks: LogitBlocks) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Computes the loss `[]`, ranks `[batch]`, and the gradients of users, columns and the rows' reference."""
    users, hits = blocks.users, blocks.hits
    batch, dim = tf.shape(users)[0], users.shape[1]
    queries_aug, keys_aug, keys_and_ones = _augment(blocks, term)
    width = tf.size(keys_and_ones) // (dim + 1)
    own = blocks.own - term.row_shift
    bounds = tf.searchsorted(hits[:, 0], tf.range(batch + 1))
    shard_size = (batch + _SHARDS - 1) // _SHARDS
    block_size = tf.maximum(1, tf.minimum(shard_size, BLOCK_ELEMENTS // width))

    def shard(begin: tf.Tensor, end: tf.Tensor) -> Any:
        def block(step: Any, loss: Any, grad_columns: Any, rows_out: Any) -> Any:
            first = begin + step * block_size
            last = tf.minimum(first + block_size, end)
            rows = slice(first, last)
            logits = _compute_logits(queries_aug[rows], keys_aug)
            logits = _mask_hits(logits, hits[bounds[first] : bounds[last]] - [first, 0])
            ranked = logits[: tf.maximum(RANKED - first, 0), : tf.shape(blocks.columns)[0]]
            above = tf.cast(ranked, tf.float32) > own[rows][: tf.shape(ranked)[0], tf.newaxis]
            higher = tf.reduce_sum(tf.cast(above, tf.float32), axis=1)
            grad_logits, row_stat = term.grad_logits(logits)
            key_sums = _weighted_key_sums(grad_logits, keys_and_ones)
            row_loss, row_scale, grad_reference = term.row_loss(rows, key_sums[:, dim], row_stat)
            row_scale = row_scale[:, tf.newaxis]
            scaled_queries = tf.cast(tf.transpose(users[rows] * row_scale), grad_logits.dtype)
            grad_columns += tf.cast(tf.matmul(scaled_queries, grad_logits), tf.float32)
            higher = tf.pad(higher, [[0, tf.shape(logits)[0] - tf.shape(ranked)[0]]], constant_values=-1.0)
            per_row = tf.concat([key_sums[:, :dim] * row_scale, tf.stack([grad_reference, higher], axis=1)], axis=1)
            return step + 1, loss + tf.reduce_sum(row_loss), grad_columns, rows_out.write(step, per_row)

        num_blocks = tf.maximum(1, (end - begin + block_size - 1) // block_size)  # an empty array has no shape
        rows_out = tf.TensorArray(tf.float32, num_blocks, infer_shape=False, element_shape=[None, dim + 2])
        _, loss, grad_columns, rows_out = tf.while_loop(
            lambda step, *_: step < num_blocks,
            block,
            (0, 0.0, tf.zeros([dim, width]), rows_out),
            parallel_iterations=1,
        )
        return loss, grad_columns, rows_out.concat()

    shards = [
        shard(tf.minimum(number * shard_size, batch), tf.minimum((number + 1) * shard_size, batch))
        for number in range(_SHARDS)
    ]
    losses, grad_columns_parts, rows_out = zip(*shards, strict=True)
    per_row = tf.ensure_shape(tf.concat(rows_out, axis=0), [users.shape[0], dim + 2])
    return (
        tf.add_n(losses),
        tf.cast(per_row[:, dim + 1], tf.int32),
        per_row[:, :dim],
        tf.transpose(tf.add_n(grad_columns_parts)[:, : tf.shape(blocks.columns)[0]]),
        per_row[:, dim],
    )


def _augment(blocks: LogitBlocks, term: _RowTerm) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns queries_aug `[batch, d]`, keys_aug `[padded, d]` and keys_and_ones `[padded, dim + 1]`.

    Bias and row shift are extra dimensions of the logits' product, and a column of ones in the other product gives the
    sums of `grad_logits`, so that they need no pass over the block. One of the two key matrices is stored transposed,
    the layout that is fastest for this dtype's matmul.
    """
    users, products = blocks.users, blocks.products
    padding = _PAD_MULTIPLE - tf.shape(blocks.columns)[0] % _PAD_MULTIPLE
    padded = tf.pad(blocks.columns, [[0, padding], [0, 0]])
    ones = tf.pad(tf.ones_like(blocks.bias), [[0, padding]])
    bias = _parts(tf.concat([blocks.bias, [term.padding_logit], tf.fill([padding - 1], IMPOSSIBLE)], axis=0), products)
    shifts, row_ones = _parts(term.row_shift, products), tf.ones_like(term.row_shift)
    queries_aug = tf.concat([users, tf.stack([*(row_ones for _ in bias), *(-part for part in shifts)], axis=1)], axis=1)
    keys_aug = tf.concat([padded, tf.stack([*bias, *(ones for _ in shifts)], axis=1)], axis=1)
    keys_and_ones = tf.concat([padded, ones[:, tf.newaxis]], axis=1)
    if products == tf.float32:
        return queries_aug, tf.transpose(keys_aug), keys_and_ones
    return tf.cast(queries_aug, products), tf.cast(keys_aug, products), tf.cast(tf.transpose(keys_and_ones), products)


def _parts(numbers: tf.Tensor, products: tf.DType) -> list[tf.Tensor]:
    """Splits float32 numbers into a sum of numbers of the products' dtype, as bfloat16 has a third of the digits."""
    if products == tf.float32:
        return [numbers]
    whole = tf.cast(tf.cast(numbers, products), tf.float32)
    return [whole, numbers - whole]


def _compute_logits(queries_aug: tf.Tensor, keys_aug: tf.Tensor) -> tf.Tensor:
    """Returns the logits `[rows, columns + padding]`."""
    return tf.matmul(queries_aug, keys_aug, transpose_b=queries_aug.dtype != tf.float32)


def _weighted_key_sums(grad_logits: tf.Tensor, keys_and_ones: tf.Tensor) -> tf.Tensor:
    """Returns `grad_logits @ keys_and_ones`, float32 `[rows, dim + 1]`."""
    if grad_logits.dtype == tf.float32:
        return tf.matmul(grad_logits, keys_and_ones)
    return tf.transpose(tf.cast(tf.matmul(keys_and_ones, grad_logits, transpose_b=True), tf.float32))


def _max_norm(vectors: tf.Tensor) -> tf.Tensor:
    """Returns the largest norm of vectors `[n, dim]`, 0 if there are none."""
    return tf.maximum(0.0, tf.reduce_max(tf.norm(vectors, axis=1)))


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def _mask_hits(logits: tf.Tensor, hits: tf.Tensor) -> tf.Tensor:
    """Masks the logits of hits, on a processor by the addition that takes a fifth of a scatter's time for many hits."""
    lowered = tf.fill(tf.shape(hits)[:1], tf.cast(IMPOSSIBLE, logits.dtype))
    if _has_gpu():  # where that addition does not run, and the logits would be copied to the host
        return tf.tensor_scatter_nd_add(logits, hits, lowered)
    return tf.raw_ops.SparseTensorDenseAdd(a_indices=hits, a_values=lowered, a_shape=tf.shape(logits), b=logits)
