"""The towers, the training loop, the evaluation and the index."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Share, config_class


@config_class
class ModelConfig:
    """The towers: embeddings, hidden layers, and the unit-length vectors they end in.

    Attributes:
        table_dtype: how embedding tables are stored; sums and updates are float32 either way, and an update of a
            "bfloat16" table is rounded up or down by chance, so that small steps are not lost.
    """

    embedding_dim: Positive = 16
    vector_dim: Positive = 32
    item_hidden: tuple[Positive, ...] = (128, 64)
    user_hidden: tuple[Positive, ...] = (128, 64)
    residual: bool = False
    activation: Literal["relu", "gelu", "tanh", "selu", "swish"] = "relu"
    dropout: Share = 0.0
    table_dtype: Literal["float32", "bfloat16"] = "float32"


@config_class
class Adam:
    """Adam (Kingma and Ba, 2015) on the towers' weights."""

    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    type: Literal["Adam"] = "Adam"


@config_class
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) on the towers' kernels; biases do not decay."""

    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    weight_decay: NonNegativeFloat = 0.01
    type: Literal["AdamW"] = "AdamW"


@config_class
class RowwiseAdagrad:
    """Adagrad with one accumulator per table row: the sum of its gradients' mean squares.

    Attributes:
        initial_lr: learning rate of the first epoch; warm-up and decay are those of the towers.
        epsilon: added to the accumulator's root.
        weight_decay: decoupled, of the rows a step reads, when it reads them.
    """

    initial_lr: PositiveFloat = 0.05
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    type: Literal["RowwiseAdagrad"] = "RowwiseAdagrad"


@config_class
class Adagrad:
    """Adagrad (Duchi et al., 2011): one accumulator per number of a table.

    Attributes:
        initial_lr: learning rate of the first epoch; warm-up and decay are those of the towers.
        epsilon: added to the accumulator's root.
        weight_decay: decoupled, of the rows a step reads, when it reads them.
    """

    initial_lr: PositiveFloat = 0.05
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    type: Literal["Adagrad"] = "Adagrad"


@config_class
class LazyAdam:
    """Adam that updates the moments of a table's row only when a step reads it: two numbers beside each of the table.

    Attributes:
        initial_lr: learning rate of the first epoch; warm-up and decay are those of the towers.
        weight_decay: decoupled, of the rows a step reads, when it reads them.
    """

    initial_lr: PositiveFloat = 1e-3
    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    weight_decay: NonNegativeFloat = 0.0
    type: Literal["LazyAdam"] = "LazyAdam"


TowerOptimizer = Annotated[Adam | AdamW, Field(discriminator="type")]
TableOptimizer = Annotated[RowwiseAdagrad | Adagrad | LazyAdam, Field(discriminator="type")]


@config_class
class TrainConfig:
    """The training loop.

    Attributes:
        batch_size: training rows per step.
        epochs: passes over the training rows at most.
        optimizer: of the towers.
        table_optimizer: of the embedding tables; it brings its own learning rate.
        initial_lr: the towers' learning rate of the first epoch.
        lr_decay_rate: factor applied every `lr_decay_epochs` epochs, to the tables' learning rate as well.
        lr_staircase: decays at once after `lr_decay_epochs` epochs; otherwise a little at every step.
        warmup_steps: steps in which learning rates rise in a line from almost zero.
        monitor: validation metric that chooses the best epoch, "NAME@K"; "" keeps the last epoch.
        patience: epochs without a better `monitor` before training stops; 0 never stops early.
        evaluate_every: epochs between two validations.
        steps_per_execution: steps between two returns to Python: its share of a short step's time becomes small.
        checkpoint_minutes: minutes between two checkpoints within an epoch; one follows every epoch anyway.
        precision: "mixed_bfloat16" multiplies matrices in bfloat16, in training alone: hidden layers, projections and
            the losses' logits. Weights, sums, and all that is evaluated or exported are float32. It pays on processors
            that have such products (`twotower doctor` tells) and costs on others.
    """

    batch_size: Positive = 4096
    epochs: Positive = 10
    optimizer: TowerOptimizer = Adam()
    table_optimizer: TableOptimizer = RowwiseAdagrad()
    initial_lr: PositiveFloat = 1e-3
    lr_decay_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    lr_decay_epochs: Positive = 1
    lr_staircase: bool = True
    warmup_steps: NonNegative = 0
    monitor: Annotated[str, Field(pattern=r"^((recall|hit_rate|ndcg|mrr)@[1-9][0-9]*)?$")] = "recall@20"
    patience: NonNegative = 0
    evaluate_every: Positive = 1
    steps_per_execution: Positive = 10
    checkpoint_minutes: PositiveFloat = 30.0
    precision: Literal["float32", "mixed_bfloat16"] = "float32"

    @property
    def mixed(self) -> bool:
        """Whether training multiplies in bfloat16."""
        return self.precision == "mixed_bfloat16"


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
