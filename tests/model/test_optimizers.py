"""Every rule against its published algorithm, row by row in NumPy."""

import ast
import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import Adagrad, Adam, AdamW, LazyAdam, RowwiseAdagrad, TrainConfig
from twotower_tf.model import optimizers
from twotower_tf.model.optimizers import (
    PRIVATE_KERAS_HOOKS,
    Schedule,
    TowersAndTables,
    make_optimizer,
    round_stochastically,
    slot_numbers,
)

READS = [[0, 2, 2], [2, 4], [0, 3]]  # a row read twice in a batch gets the sum of its gradients


def rowwise_adagrad(weight, gradients, _, rate=0.2, decay=0.0):
    a = 0.0
    for gradient in gradients:
        a += np.mean(gradient**2)
        weight = weight * (1 - rate * decay) - rate * gradient / (np.sqrt(a) + 1e-8)
    return weight


def adagrad(weight, gradients, _, rate=0.2, decay=0.0):
    a = np.zeros_like(weight)
    for gradient in gradients:
        a = a + gradient**2
        weight = weight * (1 - rate * decay) - rate * gradient / (np.sqrt(a) + 1e-8)
    return weight


def adam(weight, gradients, steps, rate=0.2, decay=0.0, b1=0.9, b2=0.999, eps=1e-7):
    """Algorithm 1, with moments that move only at the given steps (counted from 1)."""
    m = v = np.zeros_like(weight)
    for gradient, t in zip(gradients, steps, strict=True):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient**2
        moved = rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        weight = weight * (1 - rate * decay) - moved
    return weight


def train_table(rule, start, dtype=tf.float32, share=2.0):
    """Three steps on a table; returns it and the summed gradients and steps of each row."""
    rng = np.random.default_rng(1)
    table = tf.Variable(tf.cast(start, dtype), name="some/table")
    optimizer = TowersAndTables(Adam(), rule, 0.1, table_share=share)
    seen = {row: ([], []) for row in range(len(start))}
    for step, rows in enumerate(READS, 1):
        values = rng.normal(size=(len(rows), start.shape[1])).astype(np.float32)
        for row in sorted(set(rows)):
            seen[row][0].append(sum(values[i].astype(np.float64) for i, each in enumerate(rows) if each == row))
            seen[row][1].append(step)
        slices = tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64), tf.constant(start.shape, tf.int64))
        optimizer.apply_gradients([(slices, table)])
    return table, optimizer, seen


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize(
    ("rule", "published"), [(RowwiseAdagrad, rowwise_adagrad), (Adagrad, adagrad), (LazyAdam, adam)]
)
def test_rows_follow_the_rule_at_the_steps_that_read_them_and_rest_otherwise(rule, published, decay):
    start = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    table, _, seen = train_table(rule(weight_decay=decay), start)
    for row, (gradients, steps) in seen.items():
        expected = published(start[row].astype(np.float64), gradients, steps, decay=decay)
        np.testing.assert_allclose(table.numpy()[row], expected, atol=1e-5)
    np.testing.assert_array_equal(table.numpy()[[1, 5]], start[[1, 5]])


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("rule", [RowwiseAdagrad(), Adagrad(), LazyAdam()], ids=lambda each: each.type)
def test_a_row_of_zeros_stays_zero_without_a_gradient(rule, dtype):
    """Row 0 is looked up in the place of no value: that must not give it content."""
    table = tf.Variable(tf.zeros((4, 3), dtype), name="some/table")
    optimizer = TowersAndTables(Adam(), rule, 0.1, table_share=1.0, seed=3)
    for _ in range(3):
        slices = tf.IndexedSlices(tf.zeros((2, 3)), tf.constant([0, 2]), tf.constant([4, 3], tf.int64))
        optimizer.apply_gradients([(slices, table)])
    assert not tf.cast(table, tf.float32).numpy().any()


@pytest.mark.parametrize(
    ("rule", "numbers"), [(RowwiseAdagrad(), 1), (Adagrad(), 3), (LazyAdam(), 6)], ids=lambda each: str(each)[:8]
)
def test_the_state_of_a_table_is_as_large_as_it_is_said_to_be(rule, numbers):
    _, optimizer, _ = train_table(rule, np.ones((5, 3), np.float32))
    assert slot_numbers(rule, 3) == numbers
    state = [each for each in optimizer.variables if each.shape.rank]
    assert sum(each.shape.num_elements() for each in state) == 5 * numbers
    assert {each.dtype for each in state} == {tf.float32}


def test_dense_weights_follow_plain_adam():
    rng = np.random.default_rng(2)
    start = rng.normal(size=(4, 2)).astype(np.float32)
    one, other = tf.Variable(start), tf.Variable(start)
    tested, plain = TowersAndTables(Adam(), RowwiseAdagrad(), 0.01, 5.0), keras.optimizers.Adam(0.01)
    for _ in range(3):
        gradient = tf.constant(rng.normal(size=(4, 2)).astype(np.float32))
        tested.apply_gradients([(gradient, one)])
        plain.apply_gradients([(gradient, other)])
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6)


def test_kernels_decay_and_biases_do_not():
    rng = np.random.default_rng(3)
    start, gradients = rng.normal(size=(4, 2)), rng.normal(size=(3, 4, 2))
    kernel, bias = (tf.Variable(value.astype(np.float32)) for value in (start, start[0]))
    optimizer = TowersAndTables(AdamW(weight_decay=0.3), RowwiseAdagrad(), 0.1, 1.0)
    for gradient in gradients.astype(np.float32):
        optimizer.apply_gradients([(tf.constant(gradient), kernel), (tf.constant(gradient[0]), bias)])
    np.testing.assert_allclose(kernel.numpy(), adam(start, gradients, [1, 2, 3], rate=0.1, decay=0.3), atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), adam(start[0], gradients[:, 0], [1, 2, 3], rate=0.1), atol=1e-5)


def test_a_bfloat16_table_goes_where_the_float32_one_goes_within_its_grid():
    start = np.random.default_rng(0).uniform(0.5, 1.0, size=(6, 3)).astype(np.float32)
    start = tf.cast(tf.cast(start, tf.bfloat16), tf.float32).numpy()
    exact, _, _ = train_table(RowwiseAdagrad(), start, share=0.1)
    stored, _, _ = train_table(RowwiseAdagrad(), start, tf.bfloat16, share=0.1)
    assert stored.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(stored, tf.float32).numpy(), exact.numpy(), atol=3 * 2**-8)


def test_steps_too_small_for_bfloat16_add_up_all_the_same():
    """Numbers between 1 and 2 are 1/128 apart there: rounded to the nearest, a step of 1/1000 would never be made."""
    table = tf.Variable(tf.ones((200, 4), tf.bfloat16), name="some/table")
    optimizer = TowersAndTables(Adam(), Adagrad(epsilon=1e3), 1.0, table_share=1.0)
    rows = tf.range(200, dtype=tf.int64)
    for _ in range(100):  # with so large an epsilon, a step is the gradient over a thousand
        optimizer.apply_gradients(
            [(tf.IndexedSlices(-tf.ones((200, 4)), rows, tf.constant([200, 4], tf.int64)), table)]
        )
    # 800 numbers, each the sum of a hundred chances: their mean is 1.1 with a deviation of 0.0010.
    assert abs(float(tf.reduce_mean(tf.cast(table, tf.float32))) - 1.1) < 0.005


def test_rounding_by_chance_is_right_on_average_and_keeps_what_bfloat16_can_hold():
    value = np.float32(1 + 0.25 / 128)  # a quarter of the way from 1 to the next number
    got = tf.cast(round_stochastically(tf.fill([40_000], value), tf.constant([3, 5], tf.int64)), tf.float32).numpy()
    assert set(np.unique(got)) == {1.0, np.float32(1 + 1 / 128)}
    assert abs((got > 1).mean() - 0.25) < 0.01
    exact = tf.constant([0.0, -1.5, 3.0, np.inf, -np.inf])
    np.testing.assert_array_equal(
        tf.cast(round_stochastically(exact, tf.constant([1, 1], tf.int64)), tf.float32), exact
    )
    assert np.isnan(
        tf.cast(round_stochastically(tf.constant([np.nan]), tf.constant([1, 1], tf.int64)), tf.float32)
    ).all()


def test_learning_rates_warm_up_and_decay():
    stairs = TrainConfig(initial_lr=0.8, lr_decay_rate=0.5, lr_decay_epochs=2, warmup_steps=4)
    rates = [float(Schedule(stairs, 10)(step)) for step in (0, 1, 3, 4, 19, 20, 39, 40)]
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2], rtol=1e-6)
    smooth = TrainConfig(initial_lr=0.8, lr_decay_rate=0.5, lr_decay_epochs=2, lr_staircase=False)
    rates = [float(Schedule(smooth, 10)(step)) for step in (0, 5, 20)]
    np.testing.assert_allclose(rates, [0.8, 0.8 * 0.5**0.25, 0.4], rtol=1e-6)


def test_tables_have_a_learning_rate_of_their_own_and_share_the_schedule():
    config = TrainConfig(initial_lr=0.01, lr_decay_rate=0.5, table_optimizer=RowwiseAdagrad(initial_lr=0.3))
    optimizer = make_optimizer(config, steps_per_epoch=1, seed=0)
    table = tf.Variable(tf.ones((2, 4)), name="some/table")
    gradient = tf.IndexedSlices(tf.ones((1, 4)), tf.constant([1], tf.int64), tf.constant([2, 4], tf.int64))
    optimizer.apply_gradients([(gradient, table)])
    np.testing.assert_allclose(table.numpy(), [[1] * 4, [0.7] * 4], rtol=1e-5)
    optimizer.apply_gradients([(gradient, table)])
    np.testing.assert_allclose(table.numpy()[1], 0.7 - 0.15 / np.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize("hook", PRIVATE_KERAS_HOOKS)
def test_tf_keras_still_has_the_private_hook(hook):
    plain = keras.optimizers.Adam(0.01)
    plain.build([tf.Variable([1.0], name="w")])
    assert hasattr(plain, hook), f"tf_keras {keras.__version__} has no Optimizer.{hook}: adapt TowersAndTables"


@pytest.mark.parametrize("hook", ["_deduplicate_sparse_grad", "_internal_apply_gradients", "update_step"])
def test_tf_keras_still_calls_the_overridden_hook(monkeypatch, hook):
    called = []
    optimizer, weight = TowersAndTables(Adam(), RowwiseAdagrad(), 0.01, 5.0), tf.Variable([1.0], name="w")
    original = getattr(optimizer, hook)
    monkeypatch.setattr(optimizer, hook, lambda *arguments: called.append(hook) or original(*arguments))
    optimizer.apply_gradients([(tf.constant([1.0]), weight)])
    assert called == [hook]


def test_every_private_attribute_used_is_listed():
    (cls,) = (
        each for each in ast.parse(inspect.getsource(optimizers)).body if getattr(each, "name", "") == "TowersAndTables"
    )
    used = {node.attr for node in ast.walk(cls) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in cls.body if isinstance(node, ast.FunctionDef)}
    inherited = {name for name in used if name.startswith("_") and not name.startswith("__")}
    plain = keras.optimizers.Adam(0.01)
    plain.build([tf.Variable([1.0], name="w")])
    assert {name for name in inherited if hasattr(plain, name)} == set(PRIVATE_KERAS_HOOKS)
