"""Binary cross-entropy on a bounded logit of the cosine."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

# 2·atanh(cosine) is infinite at ±1, and so is its slope 2/(1 - cosine²). Cosines are multiplied by this number, not cut
# off at it: the logit stays within ±7.6 and its slope between 2 and 1000, so that pairs at the ends still learn.
COSINE_SCALE = 0.999


class CosineLogit(keras.layers.Layer):
    """Computes the bounded logit 2·atanh(c) = ln((1 + c) / (1 - c)), c = 0.999·cosine, of each user and candidate.

    It is the inverse of the sigmoid at the linear probability (1 + c) / 2: sigmoid(logit) = (1 + 0.999·cosine) / 2.
    """

    def __init__(self, negatives: int, **kwargs: Any) -> None:
        """Says how many negatives each user has."""
        super().__init__(**kwargs)
        self.negatives = negatives

    def call(self, user_vectors: tf.Tensor, item_vectors: tf.Tensor) -> tf.Tensor:
        """Pairs candidates with users.

        Args:
            user_vectors: `[batch, dim]` float32, unit length.
            item_vectors: `[batch * (1 + negatives), dim]` float32, unit length: each user's own item, then the
                users' negatives, those of one user together.

        Returns:
            float32 `[batch, 1 + negatives, 1]`, the own item first.
        """
        batch, dim = tf.shape(user_vectors)[0], user_vectors.shape[1]
        own = item_vectors
        if self.negatives:
            own, drawn = tf.split(item_vectors, [batch, batch * self.negatives])
        cosine = tf.reduce_sum(own * user_vectors, axis=1)[:, tf.newaxis, tf.newaxis]
        if self.negatives:
            drawn = tf.reshape(drawn, [batch, self.negatives, dim])
            cosine = tf.concat([cosine, tf.linalg.matmul(drawn, user_vectors[:, :, tf.newaxis])], axis=1)
        return 2.0 * tf.math.atanh(COSINE_SCALE * cosine)

    def get_config(self) -> dict[str, Any]:
        """The constructor's argument."""
        return {**super().get_config(), "negatives": self.negatives}


def final_sigmoid() -> keras.layers.Layer:
    """The one sigmoid unit over the cosine logit.

    Its weight starts at one and stays positive: with a negative weight, nearer vectors would mean less likely clicks,
    and every ranking by dot product would be upside down.
    """
    return keras.layers.Dense(
        1, "sigmoid", kernel_initializer="ones", kernel_constraint=keras.constraints.NonNeg(), name="final_sigmoid"
    )


class WeightedBinaryCrossentropy(keras.losses.Loss):
    """Σ w·(-y·ln p - (1 - y)·ln(1 - p)) / Σ w over rows and their candidates; 0 where nothing weighs anything.

    Divided by the weights, not by the number of candidates as in Keras: negatives that a sampler could not give, whose
    weight is 0, do not thin out the loss of those it gave.
    """

    def __call__(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None) -> tf.Tensor:
        """`[batch, candidates, 1]` labels and probabilities, `[batch, candidates]` weights, to a scalar."""
        entropy = keras.losses.binary_crossentropy(y_true, y_pred)
        weight = tf.ones_like(entropy) if sample_weight is None else tf.cast(sample_weight, entropy.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(weight * entropy), tf.reduce_sum(weight))
