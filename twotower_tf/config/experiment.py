"""The experiment: all parts of a configuration together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from twotower_tf.config import checks, negatives
from twotower_tf.config.base import NonNegative, config_class
from twotower_tf.config.data import DataConfig
from twotower_tf.config.features import Feature, ItemFeature
from twotower_tf.config.losses import CosineLogitBCE, Loss
from twotower_tf.config.sampling import SamplingConfig
from twotower_tf.config.training import EvaluationConfig, IndexConfig, ModelConfig, TrainConfig


@config_class
class ExperimentConfig:
    """Everything that decides an experiment's outcome."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    data: DataConfig
    item_features: Annotated[tuple[ItemFeature, ...], Field(min_length=1)]
    user_features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    seed: NonNegative = 17
    model: ModelConfig = ModelConfig()
    sampling: SamplingConfig = SamplingConfig()
    loss: Loss = CosineLogitBCE()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    index: IndexConfig = IndexConfig()

    def __post_init__(self) -> None:
        """Refuses combinations that no field can see alone.

        Raises:
            ConfigError: naming the field, what came and what is accepted.
        """
        checks.check_data(self.data)
        checks.check_features(self)
        checks.check_training(self)
        negatives.check_sampling(self)
