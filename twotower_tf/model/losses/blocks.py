"""A batch's rows against its columns in one pass, without a `[batch, columns]` tensor or its gradient in memory.

Scores z(b, j) = users[b] · columns[j] + bias[j] are made for a block of rows at a time, compared, and turned into
gradients for the block's users and all columns at once; then the next block takes their place. What is no negative of a
row, a hit, weighs nothing in any sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import tensorflow as tf

# Scores of one block of rows, in elements: 4 MB, which stays in the processor's cache while it is read several times.
BLOCK_ELEMENTS = 1 << 20

# Parts of a batch that are gone over side by side: what one part does on one thread fills another's waits.
_STRANDS = 2

# Rows of a batch whose own items are ranked among the columns: a batch is in random order, so that the first ones are a
# sample for the metrics, and to rank all of them would be a fifth of the step's time.
RANKED = 256

IMPOSSIBLE = -1e9  # a score that is no candidate's: its exponential is zero in float32
_NARROW = 60.0  # e^-60 is far from float32's smallest number


class _Term(Protocol):
    """What a loss makes of a block of scores."""

    def slopes(self, scores: tf.Tensor, rows: slice) -> tuple[tf.Tensor, tf.Tensor]:
        """`[rows, columns]` scores to slopes, each row's up to a factor, and a number for each row to keep."""
        ...

    def close(self, rows: slice, sums: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """From the slopes' sums `[rows]`: rows' losses, the slopes' factors, the gradient of the rows' reference."""
        ...


@dataclass(frozen=True)
class Grid:
    """Rows and the columns that they meet.

    Attributes:
        users: `[batch, dim]` float32.
        columns: `[columns, dim]` float32.
        bias: `[columns]` float32, `IMPOSSIBLE` for a column that is not there.
        hits: `[hits, 2]` int32 (row, column), sorted by row, no pair twice.
        own: `[batch]` float32, scores of the rows' own items, for their ranks.
        weights: `[batch]` float32.
    """

    users: tf.Tensor
    columns: tf.Tensor
    bias: tf.Tensor
    hits: tf.Tensor
    own: tf.Tensor
    weights: tf.Tensor


def log_sum_exp(grid: Grid, reference: tf.Tensor, positive: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Σ_b weights[b] · (ln(exp reference[b] + Σ_j exp z(b, j)) - positive[b]), and the ranks of own items.

    Args:
        grid: of the batch.
        reference: `[batch]` float32.
        positive: `[batch]` float32.

    Returns:
        float32 `[]`, and int32 `[batch]`: how many columns score higher than `own`, -1 for rows after the first
        `RANKED`. Gradients flow to users, columns, `reference` and `positive`.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(users: tf.Tensor, columns: tf.Tensor, reference: tf.Tensor, positive: tf.Tensor) -> Any:
        given = replace(grid, users=users, columns=columns)
        term = _LogSumExp(given, reference, positive)
        lowered = replace(given, bias=grid.bias - term.shift, own=grid.own - term.shift)
        loss, ranks, *gradients = _pass(term, lowered)

        def gradient(upstream: tf.Tensor, _: Any) -> tuple[tf.Tensor, ...]:
            return tuple(upstream * each for each in (*gradients, -grid.weights))

        return (loss, ranks), gradient

    return run(grid.users, grid.columns, reference, positive)  # type: ignore[no-any-return]


Step = Literal["hinge", "logistic"]


def sum_above(step: Step, grid: Grid, threshold: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Σ_b weights[b] · Σ_j f(z(b, j) - threshold[b]), and the ranks of own items.

    Args:
        step: f(x) is max(0, x) for "hinge" and ln(1 + exp x) for "logistic".
        grid: of the batch.
        threshold: `[batch]` float32.

    Returns:
        As `log_sum_exp`; gradients flow to users, columns and `threshold`.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(users: tf.Tensor, columns: tf.Tensor, threshold: tf.Tensor) -> Any:
        term = _SumAbove(step, threshold, grid.weights)
        loss, ranks, *gradients = _pass(term, replace(grid, users=users, columns=columns))

        def gradient(upstream: tf.Tensor, _: Any) -> tuple[tf.Tensor, ...]:
            return tuple(upstream * each for each in gradients)

        return (loss, ranks), gradient

    return run(grid.users, grid.columns, threshold)  # type: ignore[no-any-return]


class _LogSumExp:
    """The term of `log_sum_exp`.

    No score is above `top` = max|users| · max|columns| + max bias. Where none is below it by more than 60, scores less
    `top` can be raised to e as they are: `shift`, part of the bias, spares the search for every row's largest score
    and its subtraction.
    """

    def __init__(self, grid: Grid, reference: tf.Tensor, positive: tf.Tensor) -> None:
        bias = grid.bias
        reach = tf.reduce_max(tf.norm(grid.users, axis=1)) * tf.reduce_max(tf.norm(grid.columns, axis=1))
        top = reach + tf.maximum(tf.reduce_max(bias), 0.1 * IMPOSSIBLE)
        bottom = -reach + tf.reduce_min(tf.where(bias > IMPOSSIBLE, bias, top))
        self._narrow = top - bottom < _NARROW
        self.shift = tf.where(self._narrow, top, 0.0)
        self._reference, self._positive, self._weights = reference, positive, grid.weights

    def slopes(self, scores: tf.Tensor, rows: slice) -> tuple[tf.Tensor, tf.Tensor]:
        def by_rows() -> tuple[tf.Tensor, tf.Tensor]:
            # A row without any candidate has no peak of its own: what is impossible must stay so.
            peak = tf.maximum(tf.reduce_max(scores, axis=1), 0.1 * IMPOSSIBLE)
            return scores - peak[:, tf.newaxis], peak

        def as_they_are() -> tuple[tf.Tensor, tf.Tensor]:
            return scores, tf.zeros(tf.shape(scores)[:1])

        lowered, peak = tf.cond(self._narrow, as_they_are, by_rows)
        return tf.exp(lowered), peak + self.shift

    def close(self, rows: slice, sums: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        reference, weights = self._reference[rows], self._weights[rows]
        alone = tf.where(sums > 0.0, kept + tf.math.log(sums), IMPOSSIBLE)
        peak = tf.maximum(alone, reference)
        total = peak + tf.math.log(tf.exp(alone - peak) + tf.exp(reference - peak))
        factors = tf.math.divide_no_nan(weights * tf.exp(alone - total), sums)
        return weights * (total - self._positive[rows]), factors, weights * tf.exp(reference - total)


class _SumAbove:
    """The term of `sum_above`."""

    def __init__(self, step: Step, threshold: tf.Tensor, weights: tf.Tensor) -> None:
        self._step = step
        self._threshold, self._weights = threshold, weights

    def slopes(self, scores: tf.Tensor, rows: slice) -> tuple[tf.Tensor, tf.Tensor]:
        above = scores - self._threshold[rows][:, tf.newaxis]
        if self._step == "hinge":
            return tf.cast(above > 0.0, tf.float32), tf.reduce_sum(tf.nn.relu(above), axis=1)
        return tf.sigmoid(above), tf.reduce_sum(tf.nn.softplus(above), axis=1)

    def close(self, rows: slice, sums: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        weights = self._weights[rows]
        return weights * kept, weights, -weights * sums


def _pass(term: _Term, grid: Grid) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Loss `[]`, ranks `[batch]`, and the gradients of users, columns and the rows' reference."""
    users, columns, hits = grid.users, grid.columns, grid.hits
    batch, dim = tf.shape(users)[0], users.shape[1]
    # The bias is one more dimension of the product, the slopes' sums are one of the other: no pass of their own.
    asking = tf.concat([users, tf.ones_like(users[:, :1])], axis=1)
    asked = tf.transpose(tf.concat([columns, grid.bias[:, tf.newaxis]], axis=1))
    pulling = tf.concat([columns, tf.ones_like(columns[:, :1])], axis=1)
    bounds = tf.searchsorted(hits[:, 0], tf.range(batch + 1))
    share = (batch + _STRANDS - 1) // _STRANDS
    size = tf.maximum(1, tf.minimum(share, BLOCK_ELEMENTS // tf.maximum(tf.shape(columns)[0], 1)))

    def strand(begin: tf.Tensor, end: tf.Tensor) -> Any:
        def block(step: Any, loss: Any, by_column: Any, *written: Any) -> Any:
            first = begin + step * size
            last = tf.minimum(first + size, end)
            rows = slice(first, last)
            scores = _without(tf.matmul(asking[rows], asked), hits[bounds[first] : bounds[last]] - [first, 0])
            ranked = scores[: tf.maximum(RANKED - first, 0)]
            own = grid.own[rows][: tf.shape(ranked)[0], tf.newaxis]
            higher = tf.reduce_sum(tf.cast(ranked > own, tf.float32), axis=1)
            slopes, kept = term.slopes(scores, rows)
            pulled = tf.matmul(slopes, pulling)
            losses, factors, by_reference = term.close(rows, pulled[:, -1], kept)
            factors = factors[:, tf.newaxis]
            by_column += tf.matmul(slopes, users[rows] * factors, transpose_a=True)
            parts = (tf.cast(higher, tf.int32), pulled[:, :-1] * factors, by_reference)
            written = tuple(array.write(step, part) for array, part in zip(written, parts, strict=True))
            return step + 1, loss + tf.reduce_sum(losses), by_column, *written

        blocks = tf.maximum(1, (end - begin + size - 1) // size)  # an empty array has no shape

        def array(dtype: Any, *shape: int) -> Any:
            return tf.TensorArray(dtype, blocks, infer_shape=False, element_shape=[None, *shape])

        _, loss, by_column, *written = tf.while_loop(
            lambda step, *_: step < blocks,
            block,
            (0, 0.0, tf.zeros_like(columns), array(tf.int32), array(tf.float32, dim), array(tf.float32)),
            parallel_iterations=1,
        )
        return loss, by_column, *(each.concat() for each in written)

    strands = [
        strand(tf.minimum(number * share, batch), tf.minimum((number + 1) * share, batch)) for number in range(_STRANDS)
    ]
    losses, by_columns, ranks, by_user, by_reference = zip(*strands, strict=True)
    rows = users.shape[0]
    unranked = tf.fill([tf.maximum(batch - RANKED, 0)], -1)
    return (
        tf.add_n(losses),
        tf.ensure_shape(tf.concat([*ranks, unranked], axis=0), [rows]),
        tf.ensure_shape(tf.concat(by_user, axis=0), users.shape),
        tf.add_n(by_columns),
        tf.ensure_shape(tf.concat(by_reference, axis=0), [rows]),
    )


def _without(scores: tf.Tensor, hits: tf.Tensor) -> tf.Tensor:
    """Scores with those of hits impossible; TensorFlow's scatter takes five times as long for many."""
    lowered = tf.fill(tf.shape(hits)[:1], IMPOSSIBLE)
    return tf.raw_ops.SparseTensorDenseAdd(a_indices=hits, a_values=lowered, a_shape=tf.shape(scores), b=scores)
