"""Logits and their loss against NumPy and hand-computed numbers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.index.click_probability import ClickProbability
from twotower_tf.model.losses.cosine_logit import (
    CosineLogitBCELoss,
    cosine_logit,
    final_sigmoid,
    weighted_binary_crossentropy,
)


def unit(rng, rows, dim):
    x = rng.normal(size=(rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("negatives", [0, 2])
def test_cosine_logit_is_two_atanh_of_each_pair(negatives):
    rng = np.random.default_rng(1)
    users, items = unit(rng, 5, 8), unit(rng, 5 * (1 + negatives), 8)
    given = {"user_vectors": users, "item_vectors": items}
    given |= {"sample_weight": np.ones((5, 1), np.float32), "label": np.ones((5, 1), np.float32)}
    if negatives:
        given["negative_weight"] = np.ones((5, negatives), np.float32)
    probability = CosineLogitBCELoss()({name: tf.constant(value) for name, value in given.items()}).numpy()
    assert probability.shape == (5, 1 + negatives, 1)
    got = np.log(probability / (1 - probability))
    for row in range(5):
        for candidate in range(1 + negatives):
            place = row if candidate == 0 else 5 + negatives * row + candidate - 1
            cosine = float(users[row] @ items[place])
            expected = math.log((1 + 0.999 * cosine) / (1 - 0.999 * cosine))
            assert abs(got[row, candidate, 0] - expected) < 1e-5


def test_clients_compute_the_same_probability():
    loss = CosineLogitBCELoss()
    loss.build({})
    loss.final_sigmoid.set_weights([np.float32([[0.7]]), np.float32([-1.5])])
    cosines = np.linspace(-1, 1, 9, dtype=np.float32)
    trained = loss.final_sigmoid(cosine_logit(tf.constant(cosines))[:, tf.newaxis]).numpy()[:, 0]
    parameters = loss.probability_parameters()
    assert parameters == pytest.approx({"cosine_scale": 0.999, "weight": 0.7, "bias": -1.5}, abs=1e-7)
    np.testing.assert_allclose(ClickProbability(**parameters).of_cosines(cosines), trained, rtol=1e-5)


@pytest.mark.parametrize(
    ("cosine", "logit", "slope"),
    [
        # c = .999 cosine: ln((1 + c) / (1 - c)) and its derivative .999 · 2 / (1 - c²)
        (-1.0, -7.600402, 999.4997),  # ln(.001 / 1.999), 1.998 / (1 - .998001)
        (-0.9995, -7.195021, 666.7220),  # ln(.0014995 / 1.9985005), 1.998 / (1 - .9985005²)
        (0.0, 0.0, 1.998),
        (0.6, 1.384420, 3.118369),  # ln(1.5994 / .4006), 1.998 / (1 - .5994²)
        (0.9995, 7.195021, 666.7220),
        (1.0, 7.600402, 999.4997),
    ],
)
def test_cosine_logit_is_bounded_and_still_learns_at_the_ends(cosine, logit, slope):
    user, item = tf.constant([[1.0, 0.0]]), tf.Variable([[cosine, math.sqrt(1 - cosine**2)]])
    with tf.GradientTape() as tape:
        got = cosine_logit(tf.reduce_sum(user * item))
    assert abs(float(got) - logit) < 1e-3
    gradient = tape.gradient(got, item).numpy()[0]
    assert abs(gradient[0] / slope - 1) < 1e-3 and gradient[1] == 0.0


def test_final_sigmoid_starts_as_the_probability_and_cannot_turn_the_ranking_over():
    layer = final_sigmoid()
    cosines = np.array([-0.5, 0.0, 0.8], np.float32)
    probability = layer(2 * np.arctanh(cosines)[:, np.newaxis]).numpy()[:, 0]
    np.testing.assert_allclose(probability, [0.25, 0.5, 0.9], atol=1e-6)  # (1 + c) / 2
    layer.kernel.assign([[-3.0]])
    layer.kernel.assign(layer.kernel_constraint(layer.kernel))
    assert layer.kernel.numpy()[0, 0] == 0.0


def test_the_loss_is_the_mean_by_weight():
    rng = np.random.default_rng(2)
    for shape in ((1, 1), (3, 1), (4, 5)):
        y = (rng.random((*shape, 1)) < 0.5).astype(np.float32)
        p = rng.uniform(0.02, 0.98, (*shape, 1)).astype(np.float32)
        weight = (rng.uniform(0.1, 3.0, shape) * (rng.random(shape) < 0.7)).astype(np.float32)
        weight[0, 0] = 1.0
        entropy = -np.where(y == 1, np.log(p), np.log(1 - p)).astype(np.float64)[..., 0]
        loss = weighted_binary_crossentropy
        assert abs(float(loss(y, p, weight)) - (weight * entropy).sum() / weight.sum()) < 1e-5
        assert abs(float(loss(y, p, np.ones_like(weight))) - entropy.mean()) < 1e-5
        assert float(loss(y, p, 0 * weight)) == 0.0


def test_the_loss_has_the_gradient_of_finite_differences():
    # d/dp of -ln p is -1/p, of -ln(1 - p) 1/(1 - p), each times its share of the weights.
    y, p = tf.constant([[[1.0], [0.0], [0.0]]]), tf.Variable([[[0.25], [0.5], [0.9]]])
    with tf.GradientTape() as tape:
        loss = weighted_binary_crossentropy(y, p, tf.constant([[3.0, 1.0, 0.0]]))
    np.testing.assert_allclose(tape.gradient(loss, p).numpy().reshape(-1), [-0.75 * 4, 0.25 * 2, 0.0], atol=1e-5)
