"""The loss that a configuration asks for, as the model's last layer."""

from __future__ import annotations

from typing import Any

from twotower_tf.config import (
    BilateralSoftmax,
    CosineContrastive,
    ExperimentConfig,
    InBatchSoftmax,
    PairwiseLogistic,
    SampledSoftmax,
    TripletHinge,
)
from twotower_tf.model.losses import candidates
from twotower_tf.model.losses.candidates import CandidateLoss
from twotower_tf.model.losses.pairwise import CosineContrastiveLoss, PairwiseLogisticLoss, TripletHingeLoss
from twotower_tf.model.losses.softmax import BilateralSoftmaxLoss, SoftmaxLoss
from twotower_tf.sampling import negatives_plan


def layer(config: ExperimentConfig) -> CandidateLoss:
    """The layer of any loss but `CosineLogitBCE`."""
    loss, plan = config.loss, negatives_plan.plan(config)
    columns: dict[str, Any] = {"in_batch": plan.in_batch, "queue": plan.queue, "name": "loss"}
    if config.train.mixed:
        columns["products"] = "bfloat16"
    if isinstance(loss, InBatchSoftmax | SampledSoftmax):
        return SoftmaxLoss(loss.temperature, loss.learn_temperature, loss.correct, **columns)
    if isinstance(loss, BilateralSoftmax):
        temperatures = loss.temperature_positive, loss.temperature_negative
        return BilateralSoftmaxLoss(*temperatures, loss.correct, **columns)
    if isinstance(loss, CosineContrastive):
        return CosineContrastiveLoss(loss.margin, loss.negative_weight, **columns)
    if isinstance(loss, PairwiseLogistic):
        return PairwiseLogisticLoss(loss.temperature, loss.learn_temperature, **columns)
    if isinstance(loss, TripletHinge):
        return TripletHingeLoss(loss.margin, **columns)
    raise TypeError(f"{loss} is no loss over candidates")


def inputs(config: ExperimentConfig) -> tuple[str, ...]:
    """Names of what the layer needs beside vectors; `candidates.SPECS` has their shapes."""
    plan = negatives_plan.plan(config)
    names = [candidates.POSITIVE_LOG_Q, candidates.SAMPLE_WEIGHT]
    if plan.per_row:
        names += [candidates.NEGATIVE_LOG_Q, candidates.NEGATIVE_WEIGHT]
    if plan.columns(config.train.batch_size):
        names += [candidates.COLUMN_LOG_Q, candidates.HITS]
    return tuple(names)
