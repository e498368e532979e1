"""Dropout whose chance can be gone on with."""

import numpy as np
import tensorflow as tf

from twotower_tf.model.towers import Dropout


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
