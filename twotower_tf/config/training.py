"""Configuration of the towers, the training loop, the evaluation and the index."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from twotower_tf.config.base import Name, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Share, config_class
from twotower_tf.config.index_kinds import check_config_kind


@config_class
class ModelConfig:
    """The towers: embeddings, hidden layers, and the unit-length output vectors.

    Attributes:
        embedding_dim: default dimension of the features' embeddings.
        vector_dim: dimension of user and item vectors.
        combine: how a tower joins its features. "concatenate": next to each other, for the first layer to weigh.
            "add": their embeddings, all of one dimension, are summed; a tower without hidden layers then has no weights
            of its own, and the sum has `vector_dim`. So a user vector is its id's embedding plus the mean of the
            history's items, which is matrix factorization with SimpleX's user vector (Mao et al., "SimpleX: A Simple
            and Strong Baseline for Collaborative Filtering", CIKM 2021, without their matrix V). Use it for ids.
        item_hidden: widths of the item tower's hidden layers.
        user_hidden: widths of the user tower's hidden layers.
        residual: adds residual connections around the hidden layers.
        layer_norm: normalizes what enters a hidden layer, by row: mean 0 and deviation 1, then a learned gain and bias
            (Ba et al., "Layer Normalization", 2016), before the layer as in Xiong et al., "On Layer Normalization in
            the Transformer Architecture" (2020). With `residual` the shortcut is not normalized.
        activation: activation of the hidden layers.
        dropout: dropout rate of the hidden layers.
        initial_scale: random content of new table rows is uniform between ± `initial_scale` · dimension^-.5. With 1 a
            tower's few embeddings begin near unit size. An optimizer whose steps have a fixed length (Adam) turns
            smaller rows sooner: with .1 self-attention learns faster, in docs/benchmarks.md. Adagrad is best with 1.
        table_dtype: storage type of the embedding tables. Sums and updates are float32 either way; updates of a
            "bfloat16" table are rounded stochastically, so that small steps are not lost.
    """

    embedding_dim: Positive = 64
    vector_dim: Positive = 64
    combine: Literal["concatenate", "add"] = "concatenate"
    item_hidden: tuple[Positive, ...] = ()
    user_hidden: tuple[Positive, ...] = ()
    residual: bool = False
    layer_norm: bool = False
    activation: Literal["relu", "gelu", "tanh", "selu", "swish"] = "relu"
    dropout: Share = 0.0
    initial_scale: PositiveFloat = 1.0
    table_dtype: Literal["float32", "bfloat16"] = "float32"


@config_class
class Adam:
    """Adam (Kingma and Ba, 2015) for the towers' weights.

    Attributes:
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: added to the square root of the second moment.
    """

    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    type: Literal["Adam"] = "Adam"


@config_class
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) of the towers' kernels, not their biases.

    Attributes:
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: added to the square root of the second moment.
        weight_decay: decoupled weight decay of the kernels.
    """

    beta_1: Share = 0.9
    beta_2: Share = 0.999
    epsilon: PositiveFloat = 1e-7
    weight_decay: NonNegativeFloat = 0.01
    type: Literal["AdamW"] = "AdamW"


@config_class
class RowwiseAdagrad:
    """Row-wise Adagrad: one accumulator per table row, the sum of the mean squares of its gradients.

    Attributes:
        initial_lr: learning rate of the first epoch; warm-up and decay are those of the towers.
        epsilon: added to the square root of the accumulator.
        weight_decay: decoupled weight decay, applied to the rows that a step reads.
    """

    initial_lr: PositiveFloat = 0.05
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    type: Literal["RowwiseAdagrad"] = "RowwiseAdagrad"


@config_class
class Adagrad:
    """Adagrad (Duchi et al., 2011): one accumulator per element of a table.

    Attributes:
        initial_lr: learning rate of the first epoch; warm-up and decay are those of the towers.
        epsilon: added to the square root of the accumulator.
        weight_decay: decoupled weight decay, applied to the rows that a step reads.
    """

    initial_lr: PositiveFloat = 0.05
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    type: Literal["Adagrad"] = "Adagrad"


@config_class
class LazyAdam:
    """Lazy Adam: updates the moments of a table row only when a step reads it; two moments per element.

    Attributes:
        initial_lr: learning rate of the first epoch; warm-up and decay are those of the towers.
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: added to the square root of the second moment.
        weight_decay: decoupled weight decay, applied to the rows that a step reads.
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
        batch_size: training rows per step. None: 4,096 events, 64 windows of sequences, or 256 users; the resolved
            configuration shows it.
        epochs: maximum number of epochs.
        rows: "event": a training row is one event with the user's history before it. "sequence": a training row is a
            user's whole sequence, cut into windows of `History.length`; one pass through a causal encoder gives the
            history's vector at each position, and each event of the window is trained on as it would be by itself. It
            is many times as fast. "user", for logs without times: a training row is a user with all training
            positives, also in the history. The user tower and the shared negatives are computed once per user, which is
            faster by the number of positives per user. None: "sequence" where a history has a causal encoder,
            otherwise "event"; the resolved configuration shows it.
        optimizer: optimizer of the towers.
        table_optimizer: optimizer of the embedding tables, with its own learning rate.
        initial_lr: learning rate of the towers in the first epoch.
        lr_decay_rate: factor applied every `lr_decay_epochs` epochs, to the tables' learning rate as well.
        lr_decay_epochs: epochs per decay by `lr_decay_rate`.
        lr_staircase: decays in steps every `lr_decay_epochs` epochs; otherwise continuously.
        warmup_steps: steps of linear warm-up of the learning rates.
        monitor: validation metric that chooses the best epoch, "NAME@K"; "" keeps the last epoch.
        patience: epochs without a better `monitor` before training stops; 0 never stops early.
        evaluate_every: epochs between two validations.
        steps_per_execution: steps per call of the compiled training function; more reduce the overhead of Python.
        checkpoint_minutes: minutes between two checkpoints within an epoch; every epoch ends with one as well.
        precision: "mixed_bfloat16" computes matrix products in bfloat16 during training: hidden layers, projections and
            the losses' logits. Weights, sums, evaluation and export stay float32. It is faster on processors with
            bfloat16 instructions (see `twotower doctor`) and slower on others.
    """

    batch_size: Positive | None = None
    epochs: Positive = 20
    rows: Literal["event", "sequence", "user"] | None = None
    optimizer: TowerOptimizer = Adam()
    table_optimizer: TableOptimizer = RowwiseAdagrad()
    initial_lr: PositiveFloat = 1e-3
    lr_decay_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    lr_decay_epochs: Positive = 1
    lr_staircase: bool = True
    warmup_steps: NonNegative = 0
    monitor: Annotated[str, Field(pattern=r"^((recall|hit_rate|ndcg|mrr|map)@[1-9][0-9]*)?$")] = "recall@20"
    patience: NonNegative = 3
    evaluate_every: Positive = 1
    steps_per_execution: Positive = 10
    checkpoint_minutes: PositiveFloat = 30.0
    precision: Literal["float32", "mixed_bfloat16"] = "float32"

    @property
    def sequences(self) -> bool:
        """Whether a training row is a user's whole sequence."""
        return self.rows == "sequence"

    @property
    def by_user(self) -> bool:
        """Whether a training row is a user with all training positives."""
        return self.rows == "user"

    @property
    def mixed(self) -> bool:
        """Whether training computes matrix products in bfloat16."""
        return self.precision == "mixed_bfloat16"


@config_class
class EvaluationConfig:
    """The evaluation protocol.

    Attributes:
        ks: cut-offs of the ranking metrics.
        exclude_seen: excludes the user's training positives (for test also the validation positives) from the ranking.
        query: "user": one query per user, as of the first held-out event, with all held-out positives relevant;
            "event": one query per held-out positive, with its item relevant.
        slices: source columns of features, of users or items, e.g. `("gender", "genres")`: metrics are computed for the
            ten values of most users each, and for all others together; of a column with more than ten numbers for
            quarters of its rows.
        recent_days: window of the baseline of recent popularity, counted back from the last training positive; a
            quarter of the training positives' time where that is shorter.
    """

    ks: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10, 20, 50, 100)
    exclude_seen: bool = True
    query: Literal["user", "event"] = "user"
    slices: tuple[Name, ...] = ()
    recent_days: PositiveFloat = 7.0


@config_class
class IndexConfig:
    """The nearest-neighbour index of the bundle.

    Attributes:
        k: number of items returned by the in-graph `recommend` signature, and the k at which recall is measured.
        target_recall: required recall@k of the index, compared with exact search.
        kind: "exact", "scann", or the name of another registered backend; "auto" uses exact search up to
            `exact_below` items and ScaNN above.
        exact_below: largest catalogue for which "auto" uses exact search.
        recommend_below: largest catalogue for which the bundle has the in-graph `recommend` signature.
    """

    k: Positive = 100
    target_recall: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    kind: Annotated[str, AfterValidator(check_config_kind)] = "auto"
    exact_below: NonNegative = 20_000
    recommend_below: NonNegative = 100_000
