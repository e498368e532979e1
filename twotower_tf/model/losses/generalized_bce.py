"""Binary cross-entropy with a calibrated positive part."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from twotower_tf.config import GBCE
from twotower_tf.model.losses import blockwise_logits
from twotower_tf.model.losses.candidates import CandidateLoss, Candidates
from twotower_tf.model.losses.registry import registers
from twotower_tf.model.losses.softmax import add_log_temperature, among_both, higher


@registers(GBCE)
class GBCELoss(CandidateLoss):
    """Generalized binary cross-entropy (gBCE).

    L = -(β ln σ(z⁺) + Σ_j v_j ln(1 - σ(z_j))) / (1 + |N|) with z = cosine / temperature, over the row's negatives N,
    which count v_j each and |N| in all; β = α·(t·(1 - 1/α) + 1/α) = 1 - t·(1 - α), where α is the share of the possible
    negatives that are drawn. Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation
    Trained with Negative Sampling" (RecSys 2023), equations 6 and 15. α is |N| times the probability of one draw, at
    most 1. A row without a negative has no loss.
    """

    def __init__(self, temperature: float, learn_temperature: bool, calibration: float, **kwargs: Any) -> None:
        """Takes the fields of the configuration's `GBCE`; see `CandidateLoss`."""
        super().__init__(**kwargs)
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.calibration = calibration

    def build(self, input_shape: Any) -> None:
        """Creates the temperature."""
        self.log_temperature = add_log_temperature(self, self.temperature, self.learn_temperature)
        super().build(input_shape)

    def compare(self, candidates: Candidates) -> tuple[tf.Tensor, tf.Tensor]:
        """See `CandidateLoss.compare`."""
        scale, counts = tf.exp(-self.log_temperature), candidates.counts
        share = tf.minimum(1.0, counts * tf.exp(candidates.positive_log_q))
        beta = 1.0 - self.calibration * (1.0 - share)
        weights = tf.where(counts > 0.0, candidates.weights / (1.0 + counts), 0.0)
        own, negatives = candidates.logits(scale, False)
        grid = candidates.grid(scale, False, own, weights)
        by_column, ranks = blockwise_logits.sum_above("logistic", grid, tf.zeros_like(own))
        costs = tf.reduce_sum(candidates.negatives_weight * tf.nn.softplus(negatives), axis=1)
        loss = by_column + tf.reduce_sum(weights * (beta * tf.nn.softplus(-own) + costs))
        return loss, among_both(ranks, higher(negatives, own))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("temperature", "learn_temperature", "calibration")}
        return {**super().get_config(), **own}
