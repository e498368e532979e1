"""The towers, the training loop, the evaluation and the index."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import NonNegative, Positive, PositiveFloat, Share, config_class


@config_class
class ModelConfig:
    """The towers: embeddings, hidden layers, and the unit-length vectors they end in."""

    embedding_dim: Positive = 16
    vector_dim: Positive = 32
    item_hidden: tuple[Positive, ...] = (128, 64)
    user_hidden: tuple[Positive, ...] = (128, 64)
    residual: bool = False
    activation: Literal["relu", "gelu", "tanh", "selu", "swish"] = "relu"
    dropout: Share = 0.0


@config_class
class Adam:
    """Adam (Kingma and Ba, 2015) on every weight."""

    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    type: Literal["Adam"] = "Adam"


@config_class
class TrainConfig:
    """The training loop.

    Attributes:
        batch_size: training rows per step.
        epochs: passes over the training rows at most.
        initial_lr: learning rate of the first epoch.
        lr_decay_rate: factor applied every `lr_decay_epochs` epochs, as a staircase.
        monitor: validation metric that chooses the best epoch, "NAME@K"; "" keeps the last epoch.
        patience: epochs without a better `monitor` before training stops; 0 never stops early.
        evaluate_every: epochs between two validations.
        steps_per_execution: steps between two returns to Python: its share of a short step's time becomes small.
    """

    batch_size: Positive = 4096
    epochs: Positive = 10
    optimizer: Adam = Adam()
    initial_lr: PositiveFloat = 1e-3
    lr_decay_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    lr_decay_epochs: Positive = 1
    monitor: Annotated[str, Field(pattern=r"^((recall|hit_rate|ndcg|mrr)@[1-9][0-9]*)?$")] = "recall@20"
    patience: NonNegative = 0
    evaluate_every: Positive = 1
    steps_per_execution: Positive = 10


@config_class
class EvaluationConfig:
    """How the model is judged.

    Attributes:
        ks: cut-offs of the ranking metrics.
        exclude_seen: leaves the user's training (and, on test, validation) positives out of the ranking.
        query: "user": one query per user, as of the first held-out event, relevant are all held-out positives;
            "event": one query per held-out positive, relevant is its item.
    """

    ks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10, 20, 50, 100)
    exclude_seen: bool = True
    query: Literal["user", "event"] = "user"


@config_class
class IndexConfig:
    """The index in the bundle.

    Attributes:
        k: answers of the in-graph `recommend` signature, and the k at which recall is measured.
        target_recall: recall@k against exact search that the index must reach.
        kind: "auto" is exact search up to `exact_below` items and ScaNN above.
        recommend_below: catalogues up to this size get the in-graph `recommend` signature.
    """

    k: Positive = 100
    target_recall: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    kind: Literal["auto", "exact", "scann"] = "auto"
    exact_below: NonNegative = 20_000
    recommend_below: NonNegative = 100_000
