"""Losses that weigh a row's candidates by a softmax."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import BilateralSoftmax, FullSoftmax, InBatchSoftmax, SampledSoftmax
from twotower_tf.model.losses import blockwise_logits
from twotower_tf.model.losses.blockwise_logits import IMPOSSIBLE
from twotower_tf.model.losses.candidates import USERS, CandidateLoss, Candidates
from twotower_tf.model.losses.registry import registers


def add_log_temperature(layer: keras.layers.Layer, temperature: float, learn: bool) -> tf.Variable:
    """Adds a weight to the layer: the temperature's logarithm, which keeps it positive."""
    return layer.add_weight(
        name="log_temperature",
        shape=(),
        initializer=keras.initializers.Constant(math.log(temperature)),
        trainable=learn,
    )


@registers(InBatchSoftmax)
@registers(SampledSoftmax)
@registers(FullSoftmax)
class SoftmaxLoss(CandidateLoss):
    """Softmax cross-entropy of each row's own item among its candidates.

    L = -ln(exp z⁺ / (exp z⁺ + Σ_j w_j exp z_j)) with z_j = cosine_j / temperature - ln q_j, where j runs over the
    columns and the row's own negatives, w_j is the draw's weight (1 for columns), and q_j is the probability with which
    the catalogue's samplers draw j, for a hard negative that of the positive, so that only their cosines differ. It is
    the correction of Bengio and Senécal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model" (2008), and of Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation"
    (2015), section 3; with the batch's own items as candidates, Yi et al., "Sampling-Bias-Corrected Neural Modeling for
    Large Corpus Item Recommendations" (RecSys 2019), equation 3. What is drawn more often is met more often as a
    negative, and each time pushed away less. With the whole catalogue as columns q is the same for all, and L is the
    cross-entropy over all items. A row without a negative has no loss.

    With `user_temperature` the temperature is divided by exp(w · u) with the row's user vector u and a learned w.
    """

    def __init__(
        self,
        temperature: float,
        learn_temperature: bool,
        correct: bool = True,
        user_temperature: bool = False,
        growing: bool = False,
        **kwargs: Any,
    ) -> None:
        """Takes the fields of the configuration's class; see `CandidateLoss`. Of `growing` the inputs' log q know."""
        super().__init__(**kwargs)
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.correct = correct
        self.user_temperature = user_temperature
        self.growing = growing

    def build(self, input_shape: Any) -> None:
        """Creates the temperature, and the vector that the users' own scales follow from, which are 1 at first."""
        self.log_temperature = add_log_temperature(self, self.temperature, self.learn_temperature)
        if self.user_temperature:
            self.user_scale = self.add_weight(
                name="user_scale", shape=(int(input_shape[USERS][-1]),), initializer="zeros"
            )
        super().build(input_shape)

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`."""
        scale = tf.exp(-self.log_temperature)
        if self.user_temperature:
            scale *= tf.exp(tf.linalg.matvec(candidates.users, self.user_scale))
        own, negatives = candidates.logits(scale, self.correct)
        counted = negatives + candidates.log_weights()
        reference = tf.reduce_logsumexp(tf.concat([own[:, tf.newaxis], counted], axis=1), axis=1)
        grid = candidates.grid(scale, self.correct, own, candidates.weights)
        loss, ranks = blockwise_logits.log_sum_exp(grid, reference, positive=own)
        return loss, among_both(ranks, higher(negatives, own))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("temperature", "learn_temperature", "correct", "user_temperature", "growing")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}


@registers(BilateralSoftmax)
class BilateralSoftmaxLoss(CandidateLoss):
    """Bilateral softmax loss: a temperature for the positive, another for the negatives.

    L = -cosine⁺ / τ₁ + ln Σ_j w_j exp(cosine_j / τ₂ - ln q_j), where j runs over the negatives alone; Wu et al., "BSL:
    Understanding and Improving Softmax Loss for Recommendation" (ICDE 2024), section 5, in the form of its authors'
    code, one positive at a time: theirs is this one times τ₁ / τ₂. The larger τ₁ is against τ₂, the less a row trusts
    its positive. With τ₁ = τ₂ it is that paper's softmax loss, which differs from `SoftmaxLoss` in that the positive is
    not among what it is compared with. A row without a negative has no loss.

    The temperatures are given, not learned: the loss falls without end as τ₁ does, so nothing would hold it.
    """

    def __init__(self, temperature_positive: float, temperature_negative: float, correct: bool, **kwargs: Any) -> None:
        """Takes the fields of the configuration's `BilateralSoftmax`; see `CandidateLoss`."""
        super().__init__(**kwargs)
        self.temperature_positive = temperature_positive
        self.temperature_negative = temperature_negative
        self.correct = correct

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`; own items are ranked at the negatives' temperature."""
        scale = 1.0 / self.temperature_negative
        own, negatives = candidates.logits(scale, self.correct)
        counted = negatives + candidates.log_weights()
        none = tf.fill(tf.shape(own[:, tf.newaxis]), IMPOSSIBLE)
        reference = tf.reduce_logsumexp(tf.concat([none, counted], axis=1), axis=1)
        weights = tf.where(candidates.counts > 0.0, candidates.weights, 0.0)
        grid = candidates.grid(scale, self.correct, own, weights)
        loss, ranks = blockwise_logits.log_sum_exp(
            grid, reference, positive=candidates.positive / self.temperature_positive
        )
        return loss, among_both(ranks, higher(negatives, own))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("temperature_positive", "temperature_negative", "correct")}
        return {**super().get_config(), **own}


def higher(negatives: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """Counts how many of `[batch, n]` are higher than `[batch]`, int32 `[batch]`."""
    return tf.math.count_nonzero(negatives > own[:, tf.newaxis], axis=1, dtype=tf.int32)


def among_both(by_columns: tf.Tensor, by_negatives: tf.Tensor) -> tf.Tensor:
    """Adds up ranks int32 `[batch]` among columns and among own negatives; -1 stays -1, not ranked."""
    return tf.where(by_columns < 0, by_columns, by_columns + by_negatives)
