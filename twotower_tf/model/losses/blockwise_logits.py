"""A batch's rows against its columns in one pass, without a `[batch, columns]` tensor or its gradient in memory.

Scores z(b, j) = users[b] · columns[j] + bias[j] - level[b] are made for a block of rows at a time, compared, and turned
into gradients for the block's users and all columns at once; then the next block takes their place. What is no negative
of a row, a hit, weighs nothing in any sum.

The three products of a block may be of bfloat16, which has three digits. A row's level is what its scores are compared
with, its own item's score or a threshold: the scores that matter are near it, small numbers that lose little.
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

IMPOSSIBLE = -1e9  # a score that is no candidate's: its exponential is zero
_NARROW = 75.0  # e^-75 / 10^5 is not below float32's and bfloat16's smallest number
_WHOLE = 16  # columns are filled up to a multiple of it: products of odd sizes are slower


class _Term(Protocol):
    """What a loss makes of a block of scores.

    Attributes:
        level: `[batch]` float32, which is part of the scores.
        filling: the score of the first column that fills up; the others are impossible.
    """

    level: tf.Tensor
    filling: float

    def slopes(self, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`[rows, columns + filling]` scores to slopes, each row's up to a factor, and a number per row to keep."""
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
        products: the type of the products' factors and results; sums over blocks are float32.
    """

    users: tf.Tensor
    columns: tf.Tensor
    bias: tf.Tensor
    hits: tf.Tensor
    own: tf.Tensor
    weights: tf.Tensor
    products: tf.DType = tf.float32


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
        loss, ranks, *gradients = _pass(_LogSumExp(given, reference, positive), given)

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
    """The term of `log_sum_exp`: the level is the own item's score, or where columns' scores begin or end beyond it.

    No two scores are farther apart than 2 · max|users| · max|columns| + max bias - min bias. Where that is below 75,
    the softmax over the columns and one more of score 0 gives slopes and their scale at once: exp z(b, j) is the ratio
    of two of its numbers, neither of which is lost. Else the row's largest score is looked for.
    """

    filling = 0.0

    def __init__(self, grid: Grid, reference: tf.Tensor, positive: tf.Tensor) -> None:
        bias = grid.bias
        reach = _longest(grid.users) * _longest(grid.columns)
        top = reach + tf.maximum(tf.reduce_max(bias), 0.1 * IMPOSSIBLE)
        bottom = -reach + tf.reduce_min(tf.where(bias > IMPOSSIBLE, bias, top))
        self._narrow = top - bottom < _NARROW
        self.level = tf.clip_by_value(grid.own, tf.minimum(bottom, top), top)
        self._reference, self._positive, self._weights = reference, positive, grid.weights
        self._columns = tf.shape(bias)[0]

    def slopes(self, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def by_rows() -> tuple[tf.Tensor, tf.Tensor]:
            # A row without any candidate has no peak of its own: what is impossible must stay so.
            peak = tf.reduce_max(scores[:, : self._columns], axis=1)
            peak = tf.maximum(peak, tf.cast(0.1 * IMPOSSIBLE, scores.dtype))
            return tf.exp(tf.minimum(scores - peak[:, tf.newaxis], 0)), tf.cast(peak, tf.float32)

        def at_once() -> tuple[tf.Tensor, tf.Tensor]:
            shares = tf.nn.softmax(scores)
            return shares, -tf.math.log(tf.cast(shares[:, self._columns], tf.float32))

        return tf.cond(self._narrow, at_once, by_rows)  # type: ignore[no-any-return]

    def close(self, rows: slice, sums: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        reference, weights = self._reference[rows], self._weights[rows]
        alone = tf.where(sums > 0.0, self.level[rows] + kept + tf.math.log(sums), IMPOSSIBLE)
        peak = tf.maximum(alone, reference)
        total = peak + tf.math.log(tf.exp(alone - peak) + tf.exp(reference - peak))
        factors = tf.math.divide_no_nan(weights * tf.exp(alone - total), sums)
        return weights * (total - self._positive[rows]), factors, weights * tf.exp(reference - total)


class _SumAbove:
    """The term of `sum_above`: the level is the threshold."""

    filling = IMPOSSIBLE

    def __init__(self, step: Step, threshold: tf.Tensor, weights: tf.Tensor) -> None:
        self._step = step
        self.level, self._weights = threshold, weights

    def slopes(self, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        above = tf.cast(scores, tf.float32)
        if self._step == "hinge":
            return tf.cast(scores > 0, scores.dtype), tf.reduce_sum(tf.nn.relu(above), axis=1)
        return tf.sigmoid(scores), tf.reduce_sum(tf.nn.softplus(above), axis=1)

    def close(self, rows: slice, sums: tf.Tensor, kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        weights = self._weights[rows]
        return weights * kept, weights, -weights * sums


def _pass(term: _Term, grid: Grid) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Loss `[]`, ranks `[batch]`, and the gradients of users, columns and the rows' reference."""
    users, hits = grid.users, grid.hits
    batch, dim = tf.shape(users)[0], users.shape[1]
    asking, asked, pulling = _factors(grid, term)
    width = tf.size(pulling) // (dim + 1)
    own = grid.own - term.level
    bounds = tf.searchsorted(hits[:, 0], tf.range(batch + 1))
    share = (batch + _STRANDS - 1) // _STRANDS
    size = tf.maximum(1, tf.minimum(share, BLOCK_ELEMENTS // width))

    def strand(begin: tf.Tensor, end: tf.Tensor) -> Any:
        def block(step: Any, loss: Any, by_column: Any, written: Any) -> Any:
            first = begin + step * size
            last = tf.minimum(first + size, end)
            rows = slice(first, last)
            scores = _asked(asking[rows], asked)
            scores = _without(scores, hits[bounds[first] : bounds[last]] - [first, 0])
            ranked = scores[: tf.maximum(RANKED - first, 0), : tf.shape(grid.columns)[0]]
            above = tf.cast(ranked, tf.float32) > own[rows][: tf.shape(ranked)[0], tf.newaxis]
            higher = tf.reduce_sum(tf.cast(above, tf.float32), axis=1)
            slopes, kept = term.slopes(scores)
            pulled = _pulled(slopes, pulling)
            losses, factors, by_reference = term.close(rows, pulled[:, dim], kept)
            factors = factors[:, tf.newaxis]
            pushing = tf.cast(tf.transpose(users[rows] * factors), slopes.dtype)
            by_column += tf.cast(tf.matmul(pushing, slopes), tf.float32)
            higher = tf.pad(higher, [[0, tf.shape(scores)[0] - tf.shape(ranked)[0]]], constant_values=-1.0)
            by_row = tf.concat([pulled[:, :dim] * factors, tf.stack([by_reference, higher], axis=1)], axis=1)
            return step + 1, loss + tf.reduce_sum(losses), by_column, written.write(step, by_row)

        blocks = tf.maximum(1, (end - begin + size - 1) // size)  # an empty array has no shape
        written = tf.TensorArray(tf.float32, blocks, infer_shape=False, element_shape=[None, dim + 2])
        _, loss, by_column, written = tf.while_loop(
            lambda step, *_: step < blocks,
            block,
            (0, 0.0, tf.zeros([dim, width]), written),
            parallel_iterations=1,
        )
        return loss, by_column, written.concat()

    strands = [
        strand(tf.minimum(number * share, batch), tf.minimum((number + 1) * share, batch)) for number in range(_STRANDS)
    ]
    losses, by_columns, written = zip(*strands, strict=True)
    by_row = tf.ensure_shape(tf.concat(written, axis=0), [users.shape[0], dim + 2])
    return (
        tf.add_n(losses),
        tf.cast(by_row[:, dim + 1], tf.int32),
        by_row[:, :dim],
        tf.transpose(tf.add_n(by_columns)[:, : tf.shape(grid.columns)[0]]),
        by_row[:, dim],
    )


def _factors(grid: Grid, term: _Term) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """What scores and sums are products of: `[batch, d]`, `[columns + filling, d]`, `[columns + filling, dim + 1]`.

    Bias and level are dimensions of the product, and the slopes' sums are one of the other: no pass of their own.
    One of the two that columns make is turned, as products of its type are fastest.
    """
    users, products = grid.users, grid.products
    filling = _WHOLE - tf.shape(grid.columns)[0] % _WHOLE
    filled = tf.pad(grid.columns, [[0, filling], [0, 0]])
    there = tf.pad(tf.ones_like(grid.bias), [[0, filling]])
    bias = _parts(tf.concat([grid.bias, [term.filling], tf.fill([filling - 1], IMPOSSIBLE)], axis=0), products)
    levels, rows = _parts(term.level, products), tf.ones_like(term.level)
    asking = tf.concat([users, tf.stack([*(rows for _ in bias), *(-part for part in levels)], axis=1)], axis=1)
    asked = tf.concat([filled, tf.stack([*bias, *(there for _ in levels)], axis=1)], axis=1)
    pulling = tf.concat([filled, there[:, tf.newaxis]], axis=1)
    if products == tf.float32:
        return asking, tf.transpose(asked), pulling
    return tf.cast(asking, products), tf.cast(asked, products), tf.cast(tf.transpose(pulling), products)


def _parts(numbers: tf.Tensor, products: tf.DType) -> list[tf.Tensor]:
    """Float32 numbers as a sum of ones that the products' type holds: bfloat16 has a third of the digits."""
    if products == tf.float32:
        return [numbers]
    whole = tf.cast(tf.cast(numbers, products), tf.float32)
    return [whole, numbers - whole]


def _asked(asking: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
    """`[rows, columns + filling]`."""
    return tf.matmul(asking, asked, transpose_b=asking.dtype != tf.float32)


def _pulled(slopes: tf.Tensor, pulling: tf.Tensor) -> tf.Tensor:
    """`[rows, dim + 1]` float32."""
    if slopes.dtype == tf.float32:
        return tf.matmul(slopes, pulling)
    return tf.transpose(tf.cast(tf.matmul(pulling, slopes, transpose_b=True), tf.float32))


def _longest(vectors: tf.Tensor) -> tf.Tensor:
    """The largest length of `[n, dim]`, 0 of none."""
    return tf.maximum(0.0, tf.reduce_max(tf.norm(vectors, axis=1)))


def _without(scores: tf.Tensor, hits: tf.Tensor) -> tf.Tensor:
    """Scores with those of hits impossible; TensorFlow's scatter takes five times as long for many."""
    lowered = tf.fill(tf.shape(hits)[:1], tf.cast(IMPOSSIBLE, scores.dtype))
    return tf.raw_ops.SparseTensorDenseAdd(a_indices=hits, a_values=lowered, a_shape=tf.shape(scores), b=scores)
