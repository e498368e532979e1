"""Lazy Adam against the published algorithm, row by row in NumPy."""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from twotower_tf.model.optimizers import LazyAdam


def adam_row(weight, gradients, steps, lr=0.1, b1=0.9, b2=0.999, eps=1e-7):
    """One row's way through algorithm 1, with moments that move only at the given steps (counted from 1)."""
    m = v = np.zeros_like(weight)
    for gradient, t in zip(gradients, steps, strict=True):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        weight = weight - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    return weight


def test_rows_follow_adam_at_the_steps_that_read_them_and_rest_otherwise():
    rng = np.random.default_rng(1)
    start = rng.normal(size=(5, 3)).astype(np.float32)
    table = tf.Variable(start)
    optimizer = LazyAdam(0.1)
    reads = [[0, 2, 2], [2, 4], [0]]  # a row read twice in a batch gets the sum of its gradients
    seen = {row: ([], []) for row in range(5)}
    for step, rows in enumerate(reads, 1):
        values = rng.normal(size=(len(rows), 3)).astype(np.float32)
        for row in set(rows):
            total = sum(values[i] for i, each in enumerate(rows) if each == row)
            seen[row][0].append(total.astype(np.float64))
            seen[row][1].append(step)
        slices = tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64), tf.constant([5, 3], tf.int64))
        optimizer.apply_gradients([(slices, table)])
    for row, (gradients, steps) in seen.items():
        np.testing.assert_allclose(table.numpy()[row], adam_row(start[row], gradients, steps), atol=1e-5)
    np.testing.assert_array_equal(table.numpy()[[1, 3]], start[[1, 3]])


def test_dense_weights_follow_plain_adam():
    rng = np.random.default_rng(2)
    start = rng.normal(size=(4, 2)).astype(np.float32)
    one, other = tf.Variable(start), tf.Variable(start)
    lazy, plain = LazyAdam(0.01), keras.optimizers.Adam(0.01)
    for _ in range(3):
        gradient = tf.constant(rng.normal(size=(4, 2)).astype(np.float32))
        lazy.apply_gradients([(gradient, one)])
        plain.apply_gradients([(gradient, other)])
    np.testing.assert_array_equal(one.numpy(), other.numpy())
