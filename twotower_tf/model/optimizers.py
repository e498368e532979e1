"""Optimizers whose step costs what the batch touches, not what the tables hold."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras


class LazyAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba, 2015, algorithm 1) that updates only the table rows a batch reads.

    For a dense weight it is Adam. For an embedding table, the moments of a row decay when the row is read, not at
    every step: m ← β₁·m + (1 - β₁)·g and v ← β₂·v + (1 - β₂)·g², then w ← w - lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ)·m/(√v + ε),
    for the rows of the gradient alone. Plain Adam touches every row of the table at every step.
    """

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Updates one weight; gradients of tables come as `tf.IndexedSlices` without repeated rows."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        step = tf.cast(self.iterations + 1, variable.dtype)
        correction = tf.sqrt(1.0 - tf.pow(self.beta_2, step)) / (1.0 - tf.pow(self.beta_1, step))
        rate = tf.cast(self.learning_rate, variable.dtype) * correction
        place = self._index_dict[self._var_key(variable)]
        momentum, velocity = self._momentums[place], self._velocities[place]
        rows, values = gradient.indices, gradient.values
        m = self.beta_1 * tf.gather(momentum, rows) + (1.0 - self.beta_1) * values
        v = self.beta_2 * tf.gather(velocity, rows) + (1.0 - self.beta_2) * tf.square(values)
        momentum.scatter_update(tf.IndexedSlices(m, rows))
        velocity.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_sub(tf.IndexedSlices(rate * m / (tf.sqrt(v) + self.epsilon), rows))
