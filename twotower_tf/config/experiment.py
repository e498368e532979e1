"""Configuration of an experiment as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Annotated

from pydantic import Field

from twotower_tf.config import checks, negatives, row_defaults
from twotower_tf.config.base import NonNegative, config_class
from twotower_tf.config.data import DataConfig
from twotower_tf.config.features import Feature, ItemFeature
from twotower_tf.config.losses import InBatchSoftmax, Loss
from twotower_tf.config.sampling import SamplingConfig
from twotower_tf.config.search_space import TuneConfig
from twotower_tf.config.training import EvaluationConfig, IndexConfig, ModelConfig, TrainConfig

_unchecked: ContextVar[bool] = ContextVar("unchecked", default=False)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Builds configurations without checking their fields together, which is left to what replaces fields of them."""
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


@config_class
class ExperimentConfig:
    """Everything that determines the outcome of an experiment.

    Attributes:
        name: letters, digits, `_`, `.` and `-`.
        data: tables, column roles and split.
        item_features: features of the item tower.
        user_features: features of the user tower.
        seed: seed of everything that is random.
        model: both towers.
        sampling: training positives and their negatives.
        loss: training loss.
        train: training loop and optimizers.
        evaluation: evaluation protocol.
        index: nearest-neighbour index of the bundle.
        tune: hyper-parameter search.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    data: DataConfig
    item_features: Annotated[tuple[ItemFeature, ...], Field(min_length=1)]
    user_features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    seed: NonNegative = 17
    model: ModelConfig = ModelConfig()
    sampling: SamplingConfig = SamplingConfig()
    loss: Loss = InBatchSoftmax()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    index: IndexConfig = IndexConfig()
    tune: TuneConfig = TuneConfig()

    def __post_init__(self) -> None:
        """Fills in what other fields decide (negatives, kind of training rows), and checks the fields together."""
        sampling, train = row_defaults.fill_in(self.sampling, self.train, self.user_features)
        if sampling.negatives is None:
            sampling = dataclasses.replace(sampling, negatives=self.loss.default_negatives)
        object.__setattr__(self, "sampling", sampling)
        object.__setattr__(self, "train", train)
        if not _unchecked.get():
            self.check()

    @property
    def batch_size(self) -> int:
        """Training rows per step: events, windows of sequences, or users."""
        assert self.train.batch_size is not None  # filled in
        return self.train.batch_size

    def check(self) -> None:
        """Checks the fields together.

        Raises:
            ConfigError: naming the field, the given and the accepted values.
        """
        checks.check_data(self.data)
        checks.check_features(self.item_features, self.user_features, self.data, self.model)
        checks.check_histories(self.user_features, self.item_features, self.data, self.model)
        checks.check_added_features(self.model, self.item_features, self.user_features)
        checks.check_rows(self.train, self.user_features, self.loss)
        checks.check_rows_of_users(self.train, self.data, self.sampling, self.loss)
        checks.check_training(self.train, self.evaluation)
        checks.check_slices(self.evaluation, self.item_features, self.user_features)
        negatives.check_sampling(self.sampling, self.loss, self.data, self.item_features)
