"""Losses that compare with each negative by itself and take the mean."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from twotower_tf.config import CosineContrastive, PairwiseLogistic, TripletHinge
from twotower_tf.model.losses import blockwise_logits
from twotower_tf.model.losses.blockwise_logits import Step
from twotower_tf.model.losses.candidates import CandidateLoss, Candidates
from twotower_tf.model.losses.registry import registers
from twotower_tf.model.losses.softmax import add_log_temperature, among_both, higher


@registers(CosineContrastive)
class CosineContrastiveLoss(CandidateLoss):
    """Cosine contrastive loss: positives towards cosine 1, negatives below a margin.

    L = (1 - cosine⁺) + w / |N| · Σ_j max(0, cosine_j - m) over the row's negatives N; Mao et al., "SimpleX: A Simple
    and Strong Baseline for Collaborative Filtering" (CIKM 2021), equation 1. Of a row without a negative the first part
    is left.
    """

    def __init__(self, margin: float, negative_weight: float, **kwargs: Any) -> None:
        """Takes the fields of the configuration's `CosineContrastive`; see `CandidateLoss`."""
        super().__init__(**kwargs)
        self.margin = margin
        self.negative_weight = negative_weight

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`."""
        margin = tf.fill(tf.shape(candidates.positive), self.margin)
        mean, ranks = mean_above(candidates, "hinge", 1.0, margin)
        attraction = tf.reduce_sum(candidates.weights * (1.0 - candidates.positive))
        return attraction + self.negative_weight * mean, ranks

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin, "negative_weight": self.negative_weight}


@registers(PairwiseLogistic)
class PairwiseLogisticLoss(CandidateLoss):
    """Pairwise logistic loss: the positive before each negative.

    L = 1 / |N| · Σ_j -ln sigmoid((cosine⁺ - cosine_j) / temperature) over the row's negatives N; Rendle et al., "BPR:
    Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009), section 4.1. A row without a negative has no loss.
    """

    def __init__(self, temperature: float, learn_temperature: bool, **kwargs: Any) -> None:
        """Takes the fields of the configuration's `PairwiseLogistic`; see `CandidateLoss`."""
        super().__init__(**kwargs)
        self.temperature = temperature
        self.learn_temperature = learn_temperature

    def build(self, input_shape: Any) -> None:
        """Creates the temperature."""
        self.log_temperature = add_log_temperature(self, self.temperature, self.learn_temperature)
        super().build(input_shape)

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`."""
        scale = tf.exp(-self.log_temperature)
        return mean_above(candidates, "logistic", scale, candidates.positive * scale)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("temperature", "learn_temperature")}
        return {**super().get_config(), **own}


@registers(TripletHinge)
class TripletHingeLoss(CandidateLoss):
    """Triplet hinge loss: the positive nearer than each negative by a margin.

    L = 1 / |N| · Σ_j max(0, m - cosine⁺ + cosine_j) over the row's negatives N; Schroff et al., "FaceNet: A Unified
    Embedding for Face Recognition and Clustering" (CVPR 2015), equation 2: between unit vectors, its squared distances
    are 2 - 2·cosine, its margin is 2·m and its loss twice this one. A row without a negative has no loss.
    """

    def __init__(self, margin: float, **kwargs: Any) -> None:
        """Takes the field of the configuration's `TripletHinge`; see `CandidateLoss`."""
        super().__init__(**kwargs)
        self.margin = margin

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`."""
        return mean_above(candidates, "hinge", 1.0, candidates.positive - self.margin)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}


def mean_above(
    candidates: Candidates, step: Step, scale: tf.Tensor | float, threshold: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes Σ_b w_b / |N_b| · Σ_j v_j f(scale · cosine_j - threshold_b), and the ranks of the own items.

    Args:
        candidates: of the batch; w_b are its weights, N_b row b's negatives, in columns and of its own, v_j what each
            of them counts and |N_b| the sum of it.
        step: which f; see `blockwise_logits.sum_above`.
        scale: of cosines.
        threshold: `[batch]` float32.

    Returns:
        float32 `[]` and int32 `[batch]`. No gradient flows into |N|; a row without a negative gives nothing.
    """
    weights = tf.math.divide_no_nan(candidates.weights, candidates.counts)
    grid = candidates.grid(scale, False, candidates.positive * scale, weights)
    by_column, ranks = blockwise_logits.sum_above(step, grid, threshold)
    _, negatives = candidates.logits(1.0, False)
    above = negatives * scale - threshold[:, tf.newaxis]
    costs = tf.nn.relu(above) if step == "hinge" else tf.nn.softplus(above)
    own = tf.reduce_sum(candidates.negatives_weight * costs, axis=1)
    return by_column + tf.reduce_sum(weights * own), among_both(ranks, higher(negatives, candidates.positive))
