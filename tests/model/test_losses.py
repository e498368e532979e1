"""Logits against NumPy and hand-computed numbers."""

import math

import numpy as np
import tensorflow as tf
import tf_keras as keras

from twotower_tf.model.losses import CosineLogit, InBatchLogits, final_sigmoid


def unit(rng, rows, dim):
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_cosine_logit_is_two_atanh_of_each_pair():
    rng = np.random.default_rng(1)
    users, items = unit(rng, 5, 8), unit(rng, 15, 8)
    got = CosineLogit()(users, items).numpy()
    for row in range(5):
        for candidate in range(3):
            cosine = float(users[row] @ items[3 * row + candidate])
            expected = math.log((1 + cosine) / (1 - cosine))
            assert abs(got[row, candidate, 0] - expected) < 1e-5


def test_cosine_logit_is_bounded_where_it_would_be_infinite():
    one = np.array([[1.0, 0.0]], np.float32)
    got = CosineLogit()(tf.constant(one), tf.constant(np.concatenate([one, -one]))).numpy().reshape(-1)
    np.testing.assert_allclose(got, [7.6004025, -7.6004025], atol=1e-3)  # ln(1.999 / 0.001)


def test_cosine_logit_has_a_finite_slope_everywhere():
    one = tf.Variable([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        logit = CosineLogit()(one, tf.constant([[1.0, 0.0]]))
    assert np.isfinite(tape.gradient(logit, one).numpy()).all()


def test_final_sigmoid_starts_as_the_probability_and_cannot_turn_the_ranking_over():
    layer = final_sigmoid()
    cosines = np.array([-0.5, 0.0, 0.8], np.float32)
    probability = layer(2 * np.arctanh(cosines)[:, np.newaxis]).numpy()[:, 0]
    np.testing.assert_allclose(probability, [0.25, 0.5, 0.9], atol=1e-6)  # (1 + cosine) / 2
    layer.kernel.assign([[-3.0]])
    layer.kernel.assign(layer.kernel_constraint(layer.kernel))
    assert layer.kernel.numpy()[0, 0] == 0.0


def reference(users, items, rows, log_q, temperature):
    logits = users.astype(np.float64) @ items.astype(np.float64).T / temperature - log_q[np.newaxis, :]
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i != j and rows[i] == rows[j]:
                logits[i, j] = -np.inf
    return logits


def in_batch_loss(layer, users, items, rows, log_q):
    logits = layer(users, items, item_row=tf.constant(rows[:, None]), log_q=tf.constant(log_q[:, None]))
    labels = tf.range(len(rows))
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)


def test_in_batch_softmax_equals_numpy():
    rng = np.random.default_rng(2)
    for temperature in (0.05, 1.0):
        users, items = unit(rng, 9, 6), unit(rng, 9, 6)
        rows = rng.integers(0, 6, 9).astype(np.int32)
        log_q = np.log(rng.uniform(0.01, 0.9, 9)).astype(np.float32)
        got = in_batch_loss(InBatchLogits(temperature, False, True), users, items, rows, log_q)
        logits = reference(users, items, rows, log_q, temperature)
        peak = logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
        expected = float(np.mean(log_sum - np.diag(logits)))
        assert abs(float(got) - expected) < 1e-5 * max(1.0, abs(expected))


def test_the_correction_favours_popular_items():
    # Two items, equally near. The popular one is in three of four batches' places: as a negative it is met three times
    # as often, so its logit must come down by ln 3 against the rare one's: a softmax over [-ln .75, -ln .25] gives the
    # popular positive exp(-ln .75) / (exp(-ln .75) + exp(-ln .25)) = 1/4, a loss of ln 4, the rare one 3/4.
    same = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    rows = np.array([0, 1], np.int32)
    log_q = np.log(np.array([0.75, 0.25], np.float32))
    layer = InBatchLogits(1.0, False, True)
    logits = layer(same, same, item_row=tf.constant(rows[:, None]), log_q=tf.constant(log_q[:, None]))
    np.testing.assert_allclose(tf.nn.softmax(logits).numpy(), [[0.25, 0.75], [0.25, 0.75]], atol=1e-6)
    # Its gradient pulls the popular positive harder (3/4) than the rare one (1/4), which repairs that the popular
    # item is pushed away as a negative three times as often.
    uncorrected = InBatchLogits(1.0, False, False)
    logits = uncorrected(same, same, item_row=tf.constant(rows[:, None]), log_q=tf.constant(log_q[:, None]))
    np.testing.assert_allclose(tf.nn.softmax(logits).numpy(), [[0.5, 0.5], [0.5, 0.5]], atol=1e-6)


def test_a_learned_temperature_follows_its_gradient_and_a_fixed_one_has_none():
    rng = np.random.default_rng(3)
    users, items = unit(rng, 6, 4), unit(rng, 6, 4)
    rows, log_q = np.arange(6, dtype=np.int32), np.full(6, -2.0, np.float32)
    fixed, learned = InBatchLogits(0.1, False, True), InBatchLogits(0.1, True, True)
    with tf.GradientTape() as tape:
        loss = in_batch_loss(learned, users, items, rows, log_q)
    gradient = float(tape.gradient(loss, learned.log_temperature))
    step = 1e-3
    losses = []
    for sign in (1, -1):
        moved = InBatchLogits(0.1 * math.exp(sign * step), False, True)
        losses.append(float(in_batch_loss(moved, users, items, rows, log_q)))
    assert abs(gradient - (losses[0] - losses[1]) / (2 * step)) < 1e-2 * abs(gradient)
    in_batch_loss(fixed, users, items, rows, log_q)
    assert fixed.trainable_weights == [] and len(learned.trainable_weights) == 1
