"""Dropout whose chance can be gone on with; products that are narrow in training alone."""

import numpy as np
import tensorflow as tf

from twotower_tf.model.layers import Dense, Dropout


def test_a_mixed_layer_multiplies_in_bfloat16_in_training_alone():
    rng = np.random.default_rng(4)
    x, kernel, bias = (rng.normal(size=size).astype(np.float32) for size in ((50, 30), (30, 20), (20,)))
    layer = Dense(20, "relu", mixed=True)
    layer.build((None, 30))
    layer.set_weights([kernel, bias])
    whole = np.maximum(x @ kernel + bias, 0.0)
    for training in (False, None):
        np.testing.assert_allclose(layer(x, training=training), whole, rtol=1e-5, atol=1e-5)

    def rounded(numbers):  # to bfloat16's eight binary digits, by frexp: no code of TensorFlow's
        fraction, exponent = np.frexp(numbers)
        return np.ldexp(np.round(fraction * 256.0) / 256.0, exponent)

    narrow = layer(x, training=True)
    assert narrow.dtype == tf.float32
    expected = np.maximum(rounded(rounded(x).astype(float) @ rounded(kernel)) + bias, 0.0)
    # The sum itself is float32's: a last bit of bfloat16 may fall either way.
    np.testing.assert_allclose(narrow, expected, rtol=1 / 128, atol=1e-5)
    assert np.mean(np.isclose(narrow, expected, rtol=1e-6, atol=1e-6)) > 0.99
    assert np.mean(np.isclose(narrow, whole, rtol=1e-6, atol=1e-6)) < 0.7  # of zeros, about a half
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True))
    by_kernel, by_bias = tape.gradient(loss, layer.trainable_weights)
    assert by_kernel.dtype == by_bias.dtype == tf.float32
    on = (expected > 0).astype(float)
    np.testing.assert_allclose(by_kernel, rounded(x).T @ on, rtol=1 / 100, atol=0.05)
    np.testing.assert_allclose(by_bias, on.sum(axis=0), rtol=1e-6)
    assert Dense.from_config(layer.get_config()).mixed


def test_dropout_drops_its_share_in_training_alone_and_goes_on_where_it_was():
    x = tf.ones((400, 50))
    layer = Dropout(0.2, seed=5)
    np.testing.assert_array_equal(layer(x, training=False), x)
    first, second = (layer(x, training=True).numpy() for _ in range(2))
    assert set(np.unique(first)) == {0.0, np.float32(1.25)}
    assert abs((first == 0).mean() - 0.2) < 0.015  # of 20,000: a deviation of 0.0028
    assert 0.25 < (first != second).mean() < 0.40  # 2 · 0.2 · 0.8 = 0.32, were they independent
    assert int(layer.steps) == 2
    resumed = Dropout(0.2, seed=5)
    resumed.build(x.shape)
    resumed.steps.assign(1)
    np.testing.assert_array_equal(resumed(x, training=True), second)
    assert (Dropout(0.2, seed=6)(x, training=True).numpy() != first).any()
