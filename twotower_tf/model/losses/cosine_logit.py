"""Binary cross-entropy on a bounded logit of the cosine."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import CosineLogitBCE
from twotower_tf.model import replicas
from twotower_tf.model.losses.candidates import CandidateLoss, Candidates
from twotower_tf.model.losses.registry import registers
from twotower_tf.model.training_metrics import ClickMetrics

# 2·atanh(cosine) is infinite at ±1, and so is its slope 2/(1 - cosine²). Cosines are multiplied by this number, not cut
# off at it: the logit stays within ±7.6 and its slope between 2 and 1000, so that pairs at the ends still learn.
COSINE_SCALE = 0.999


def cosine_logit(cosine: tf.Tensor) -> tf.Tensor:
    """Computes the bounded logit 2·atanh(c) = ln((1 + c) / (1 - c)), c = 0.999·cosine, of float32 cosines.

    It is the inverse of the sigmoid at the linear probability (1 + c) / 2: sigmoid(logit) = (1 + 0.999·cosine) / 2.
    """
    return 2.0 * tf.math.atanh(COSINE_SCALE * cosine)


def final_sigmoid() -> keras.layers.Layer:
    """Creates the sigmoid unit over the cosine logit.

    Its weight starts at one and stays positive: with a negative weight, nearer vectors would mean less likely clicks,
    and every ranking by dot product would be upside down.
    """
    return keras.layers.Dense(
        1, "sigmoid", kernel_initializer="ones", kernel_constraint=keras.constraints.NonNeg(), name="final_sigmoid"
    )


def weighted_binary_crossentropy(labels: tf.Tensor, probabilities: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Computes Σ w·(-y·ln p - (1 - y)·ln(1 - p)) / Σ w over rows and their candidates; 0 where all weights are 0.

    Divided by the weights, not by the number of candidates as in Keras: negatives that a sampler could not give, whose
    weight is 0, do not thin out the loss of those it gave.

    Args:
        labels: `[batch, candidates, 1]` float32, 0 or 1.
        probabilities: `[batch, candidates, 1]` float32.
        weights: `[batch, candidates]` float32.

    Returns:
        float32 `[]`; where several workers share a batch, the worker's part of the sum over the weights of all.
    """
    entropy = keras.losses.binary_crossentropy(labels, probabilities)
    total = replicas.sum_over_replicas(tf.reduce_sum(weights))
    return tf.math.divide_no_nan(tf.reduce_sum(weights * entropy), total)


@registers(CosineLogitBCE)
class CosineLogitBCELoss(CandidateLoss):
    """Binary cross-entropy of a sigmoid unit over the cosine logits of each row's own item and its negatives.

    A row with label 0 is a negative of its own. Unlike in other losses, the mean is over all candidates by weight: a
    row counts by its own weight and those of its negatives.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the sigmoid unit."""
        self.final_sigmoid = final_sigmoid()
        self.final_sigmoid.build([None, None, 1])
        super().build(input_shape)

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`."""
        own = tf.ones_like(candidates.positive)[:, tf.newaxis]
        cosines = tf.concat([candidates.positive[:, tf.newaxis], candidates.negatives], axis=1)
        labels = tf.concat([candidates.labels[:, tf.newaxis], tf.zeros_like(candidates.negatives)], axis=1)
        weights = candidates.weights[:, tf.newaxis] * tf.concat([own, candidates.negatives_weight], axis=1)
        probabilities = self.final_sigmoid(cosine_logit(cosines)[..., tf.newaxis])
        return weighted_binary_crossentropy(labels[..., tf.newaxis], probabilities, weights), probabilities

    def probability_parameters(self) -> dict[str, float]:
        """Returns scale, weight and bias of sigmoid(weight · 2·atanh(scale · cosine) + bias)."""
        kernel, bias = self.final_sigmoid.get_weights()
        return {"cosine_scale": COSINE_SCALE, "weight": float(kernel[0, 0]), "bias": float(bias[0])}

    @staticmethod
    def training_metrics() -> list[keras.metrics.Metric]:
        """Creates the metrics of click probabilities."""
        return [ClickMetrics()]
