"""Logits against NumPy and hand-computed numbers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.model import softmax
from twotower_tf.model.losses import CosineLogit, InBatchSoftmaxLoss, final_sigmoid, in_batch_top_k


def unit(rng, rows, dim):
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_cosine_logit_is_two_atanh_of_each_pair():
    rng = np.random.default_rng(1)
    users, items = unit(rng, 5, 8), unit(rng, 15, 8)
    got = CosineLogit()(users, items).numpy()
    for row in range(5):
        for candidate in range(3):
            place = row if candidate == 0 else 5 + 2 * row + candidate - 1
            cosine = float(users[row] @ items[place])
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
    """Per row: the loss, and how many others score higher; float64, one row at a time."""
    logits = users.astype(np.float64) @ items.astype(np.float64).T / temperature - log_q[np.newaxis, :]
    losses, ranks = [], []
    for i in range(len(rows)):
        others = [logits[i, j] for j in range(len(rows)) if rows[j] != rows[i]]
        everything = np.array([logits[i, i], *others])
        peak = everything.max()
        losses.append(peak + np.log(np.exp(everything - peak).sum()) - logits[i, i])
        ranks.append(sum(other > logits[i, i] for other in others))
    return np.mean(losses), ranks


def same_item(rows):
    return tf.constant(np.argwhere(rows[:, None] == rows), tf.int32)


def in_batch(layer, users, items, rows, log_q):
    """The layer's added loss and its ranks."""
    ones = np.ones((len(rows), 1), np.float32)
    ranks = layer(users, items, log_q=tf.constant(log_q[:, None]), hits=same_item(rows), sample_weight=ones)
    return layer.losses[0], ranks.numpy()[:, 0].tolist()


@pytest.mark.parametrize("batch", [1, 9, 40])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_in_batch_softmax_equals_numpy(batch, temperature, monkeypatch):
    # Blocks of three or four rows, the last one not full.
    monkeypatch.setattr(softmax, "BLOCK_ELEMENTS", 3 * batch + 1)
    rng = np.random.default_rng(batch)
    users, items = unit(rng, batch, 6), unit(rng, batch, 6)
    rows = rng.integers(0, 6, batch).astype(np.int32)
    log_q = np.log(rng.uniform(0.01, 0.9, batch)).astype(np.float32)
    loss, ranks = in_batch(InBatchSoftmaxLoss(temperature, False, True), users, items, rows, log_q)
    expected, expected_ranks = reference(users, items, rows, log_q, temperature)
    assert abs(float(loss) - expected) < 1e-5 * max(1.0, abs(expected))
    assert ranks == expected_ranks


def test_in_batch_softmax_has_the_gradient_of_finite_differences(monkeypatch):
    monkeypatch.setattr(softmax, "BLOCK_ELEMENTS", 2 * 7)
    rng = np.random.default_rng(4)
    users, items = rng.normal(size=(7, 3)), rng.normal(size=(7, 3))
    rows = np.array([0, 1, 2, 1, 3, 4, 1], np.int32)
    weights = rng.uniform(0.1, 1.0, 7)

    def loss(u, v):
        total = 0.0
        for b in range(7):
            scores = [u[b] @ v[j] for j in range(7) if j == b or rows[j] != rows[b]]
            total += weights[b] * (np.log(np.exp(scores).sum()) - u[b] @ v[b])
        return total

    given = [tf.constant(x, tf.float32) for x in (users, items)]
    with tf.GradientTape() as tape:
        tape.watch(given)
        got, _ = softmax.in_batch_softmax(*given, same_item(rows), tf.constant(weights, tf.float32))
        tripled = 3.0 * got
    assert abs(float(got) - loss(users, items)) < 1e-5
    gradients = tape.gradient(tripled, given)
    for which, gradient in enumerate(gradients):
        for place in np.ndindex(7, 3):
            moved = [[users.copy(), items.copy()] for _ in range(2)]
            for sign, pair in zip((1, -1), moved, strict=True):
                pair[which][place] += sign * 1e-6
            slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
            assert abs(float(gradient[place]) - 3.0 * slope) < 1e-5


def test_the_correction_favours_popular_items():
    # Two items, equally near. The popular one is in three of four batches' places: as a negative it is met three times
    # as often, so its logit must come down by ln 3 against the rare one's: a softmax over [-ln .75, -ln .25] gives the
    # popular positive exp(-ln .75) / (exp(-ln .75) + exp(-ln .25)) = 1/4, a loss of ln 4, the rare one 3/4, ln 4/3.
    # Its gradient pulls the popular positive harder (3/4) than the rare one (1/4), which repairs that the popular
    # item is pushed away as a negative three times as often.
    same = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    rows = np.array([0, 1], np.int32)
    log_q = np.log(np.array([0.75, 0.25], np.float32))
    users = tf.concat([same, tf.ones([2, 1])], axis=1)
    for popular, row in ((True, 0), (False, 1)):
        weights = tf.one_hot(row, 2)
        items = tf.concat([same, -log_q[:, None]], axis=1)
        loss, _ = softmax.in_batch_softmax(users, items, same_item(rows), weights)
        assert abs(float(loss) - (math.log(4) if popular else math.log(4 / 3))) < 1e-6
    loss, _ = in_batch(InBatchSoftmaxLoss(1.0, False, True), same, same, rows, log_q)
    assert abs(float(loss) - (math.log(4) + math.log(4 / 3)) / 2) < 1e-6
    loss, _ = in_batch(InBatchSoftmaxLoss(1.0, False, False), same, same, rows, log_q)
    assert abs(float(loss) - math.log(2)) < 1e-6


def test_a_learned_temperature_follows_its_gradient_and_a_fixed_one_has_none():
    rng = np.random.default_rng(3)
    users, items = unit(rng, 6, 4), unit(rng, 6, 4)
    rows, log_q = np.arange(6, dtype=np.int32), np.full(6, -2.0, np.float32)
    fixed, learned = InBatchSoftmaxLoss(0.1, False, True), InBatchSoftmaxLoss(0.1, True, True)
    with tf.GradientTape() as tape:
        loss, _ = in_batch(learned, users, items, rows, log_q)
    gradient = float(tape.gradient(loss, learned.log_temperature))
    step = 1e-4
    losses = [reference(users, items, rows, log_q, 0.1 * math.exp(sign * step))[0] for sign in (1, -1)]
    assert abs(gradient - (losses[0] - losses[1]) / (2 * step)) < 1e-3 * abs(gradient)
    in_batch(fixed, users, items, rows, log_q)
    assert fixed.trainable_weights == [] and len(learned.trainable_weights) == 1


def test_top_k_counts_rows_that_fewer_than_k_others_beat():
    metric = in_batch_top_k(2)
    metric.update_state(tf.zeros([4], tf.int32), tf.constant([[0], [1], [2], [5]]))
    assert float(metric.result()) == 0.5 and metric.name == "in_batch_top_2"
