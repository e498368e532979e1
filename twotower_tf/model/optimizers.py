"""One optimizer for both kinds of weights: the towers' dense ones, and tables of which a batch reads a few rows.

A step costs what the batch touches, not what the tables hold: nothing here reads or writes a whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import Adagrad, Adam, AdamW, LazyAdam, RowwiseAdagrad, TrainConfig
from twotower_tf.config.training import TableOptimizer, TowerOptimizer

Slots = tuple[tf.Variable, ...]

_TABLE = "/table:"  # in the name of a table's weight


def slot_numbers(optimizer: TableOptimizer, dim: int) -> int:
    """Float32 numbers of optimizer state beside each row of a table."""
    match optimizer:
        case RowwiseAdagrad():
            return 1
        case Adagrad():
            return dim
        case LazyAdam():
            return 2 * dim


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A line from almost zero in the first steps, and an exponential decay: a staircase of epochs, or smooth.

    lr(t) = initial · min(1, (t + 1) / warmup_steps) · rate^(t / (steps_per_epoch · lr_decay_epochs)), the exponent
    rounded down for a staircase.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int) -> None:
        self.config = config
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: Any) -> tf.Tensor:
        """The learning rate, float32 `[]`, of a step counted from 0."""
        config, step = self.config, tf.cast(step, tf.float32)
        exponent = step / (self.steps_per_epoch * config.lr_decay_epochs)
        if config.lr_staircase:
            exponent = tf.floor(exponent)
        rate = config.initial_lr * tf.pow(config.lr_decay_rate, exponent)
        return rate * tf.minimum(1.0, (step + 1.0) / max(1, config.warmup_steps))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"config": self.config, "steps_per_epoch": self.steps_per_epoch}


@dataclass(frozen=True)
class _Now:
    """What the updates of one step share: read and computed once, not for every weight.

    Attributes:
        rate: the towers' learning rate.
        table_rate: the tables'.
        step: int64, counted from 0.
        powers: of the towers' rule, β₁ᵗ and β₂ᵗ with t counted from 1.
    """

    rate: tf.Tensor
    table_rate: tf.Tensor
    step: tf.Tensor
    powers: tuple[tf.Tensor, tf.Tensor]


class TowersAndTables(keras.optimizers.Optimizer):
    """The towers' rule for dense weights, the tables' rule for the rows of a table that a step reads.

    Towers, Adam (Kingma and Ba, 2015, algorithm 1), t counted from 1: m ← β₁·m + (1 - β₁)·g, v ← β₂·v + (1 - β₂)·g²,
    w ← w - lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ)·m/(√v + ε). AdamW (Loshchilov and Hutter, 2019, algorithm 2): besides, kernels
    lose lr·decay of themselves, before.

    Tables, g being the sum of a row's gradients in the batch:
        RowwiseAdagrad: a ← a + mean(g²), w ← w - lr·g/(√a + ε), one a for the row (Mudigere et al., "Software-Hardware
            Co-design for Fast and Scalable Training of Deep Learning Recommendation Models", 2022, section 4.1.2).
        Adagrad: a ← a + g², w ← w - lr·g/(√a + ε), number by number (Duchi et al., 2011).
        LazyAdam: Adam whose moments decay when the row is read, not at every step.
    With a decay, a row loses lr·decay of itself when it is read, before the step.
    """

    def __init__(
        self,
        towers: TowerOptimizer,
        tables: TableOptimizer,
        schedule: keras.optimizers.schedules.LearningRateSchedule | float,
        table_share: float,
        seed: int = 0,
    ) -> None:
        """Makes the optimizer.

        Args:
            towers: the rule of dense weights.
            tables: the rule of tables.
            schedule: the towers' learning rate.
            table_share: the tables' learning rate, as a multiple of the towers'.
            seed: of the chance that rounds updates of bfloat16 tables.
        """
        super().__init__("optimizer", weight_decay=None)  # 0, the default, would decay whole tables by nothing
        self.towers = towers
        self.tables = tables
        self.table_share = table_share
        self.seed = seed
        self._learning_rate = self._build_learning_rate(schedule)

    def build(self, var_list: Any) -> None:
        """Creates the state of every weight, all zero."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        self._slots = [self._made_slots(variable) for variable in var_list]

    def _made_slots(self, variable: tf.Variable) -> Slots:
        if _TABLE not in variable.name or isinstance(self.tables, LazyAdam):
            return tuple(self._slot(variable, name, variable.shape) for name in ("m", "v"))
        shape = variable.shape[:1] if isinstance(self.tables, RowwiseAdagrad) else variable.shape
        return (self._slot(variable, "a", shape),)

    def _slot(self, variable: tf.Variable, name: str, shape: Any) -> tf.Variable:
        """Zeros beside a weight; of a bfloat16 table too they are float32."""
        if variable.dtype == tf.float32:
            return self.add_variable_from_reference(variable, name, shape=shape)
        slot = tf.Variable(tf.zeros(shape), trainable=False, name=f"{name}/{variable.name.partition(':')[0]}")
        self._variables.append(slot)
        return slot

    def _deduplicate_sparse_grad(self, grads: Any) -> list[Any]:
        """Sums the gradients of a row that was read several times, in float32."""
        return [_summed(grad) if isinstance(grad, tf.IndexedSlices) else grad for grad in grads]

    def _internal_apply_gradients(self, grads_and_vars: Any) -> Any:
        """Updates all weights."""
        step, rate = tf.identity(self.iterations), tf.identity(self.learning_rate)
        table_rate = rate * self.table_share
        self._now = _Now(rate, table_rate, step, _powers(self.towers, step))
        return super()._internal_apply_gradients(grads_and_vars)

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Updates one weight; gradients of tables come as `tf.IndexedSlices` without repeated rows."""
        place = self._index_dict[self._var_key(variable)]
        if isinstance(gradient, tf.IndexedSlices):
            self._table_step(gradient.values, gradient.indices, variable, self._slots[place], place)
        else:
            self._tower_step(gradient, variable, self._slots[place])

    def _tower_step(self, gradient: tf.Tensor, variable: tf.Variable, slots: Slots) -> None:
        rule, now = self.towers, self._now
        if isinstance(rule, AdamW) and variable.shape.rank > 1:
            variable.assign_sub(variable * (now.rate * rule.weight_decay))
        tf.raw_ops.ResourceApplyAdam(  # one pass over the weight instead of a dozen
            var=variable.handle,
            m=slots[0].handle,
            v=slots[1].handle,
            beta1_power=now.powers[0],
            beta2_power=now.powers[1],
            lr=now.rate,
            beta1=rule.beta_1,
            beta2=rule.beta_2,
            epsilon=rule.epsilon,
            grad=gradient,
        )

    def _table_step(self, gradient: tf.Tensor, rows: tf.Tensor, table: tf.Variable, slots: Slots, place: int) -> None:
        rule, rate = self.tables, self._now.table_rate
        if isinstance(rule, LazyAdam):
            powers = _powers(rule, self._now.step)
            rate_now = rate * tf.sqrt(1.0 - powers[1]) / (1.0 - powers[0])
            m = rule.beta_1 * tf.gather(slots[0], rows) + (1.0 - rule.beta_1) * gradient
            v = rule.beta_2 * tf.gather(slots[1], rows) + (1.0 - rule.beta_2) * tf.square(gradient)
            slots[0].scatter_update(tf.IndexedSlices(m, rows))
            slots[1].scatter_update(tf.IndexedSlices(v, rows))
            change = rate_now * m / (tf.sqrt(v) + rule.epsilon)
        elif isinstance(rule, RowwiseAdagrad):
            a = tf.gather(slots[0], rows) + tf.reduce_mean(tf.square(gradient), axis=1)
            slots[0].scatter_update(tf.IndexedSlices(a, rows))
            change = gradient * (rate / (tf.sqrt(a) + rule.epsilon))[:, tf.newaxis]
        else:
            a = tf.gather(slots[0], rows) + tf.square(gradient)
            slots[0].scatter_update(tf.IndexedSlices(a, rows))
            change = rate * gradient / (tf.sqrt(a) + rule.epsilon)
        moved = tf.cast(tf.gather(table, rows), tf.float32)
        if rule.weight_decay:
            moved *= 1.0 - rate * rule.weight_decay
        moved -= change
        if table.dtype == tf.bfloat16:
            moved = rounded_by_chance(moved, tf.stack([self._now.step * 1000 + place, self.seed]))
        # `scatter_sub` takes twice the time of a gather and an update: it adds row by row, an update copies them.
        table.scatter_update(tf.IndexedSlices(moved, rows))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {name: getattr(self, name) for name in ("towers", "tables", "table_share", "seed")}
        return {"schedule": self._serialize_hyperparameter(self._learning_rate), **own}


def make(config: TrainConfig, steps_per_epoch: int, seed: int) -> TowersAndTables:
    """The optimizer that a configuration asks for.

    Args:
        config: of the training.
        steps_per_epoch: batches per epoch: learning rates decay by epochs.
        seed: of the experiment.
    """
    schedule = Schedule(config, steps_per_epoch)
    share = config.table_optimizer.initial_lr / config.initial_lr
    return TowersAndTables(config.optimizer, config.table_optimizer, schedule, share, seed)


def _powers(rule: Adam | AdamW | LazyAdam, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    counted = tf.cast(step + 1, tf.float32)
    return tf.pow(rule.beta_1, counted), tf.pow(rule.beta_2, counted)


def _summed(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(tf.cast(gradient.values, tf.float32), places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def rounded_by_chance(values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rounds to bfloat16, up or down with the probabilities that make the expected value the value itself.

    Rounding to the nearest would lose every step smaller than 1/512 of a weight (Gupta et al., "Deep Learning with
    Limited Numerical Precision", 2015, section 3.1).

    Args:
        values: float32, any shape.
        seed: int64 `[2]`; the same chance for the same seed.

    Returns:
        bfloat16, the same shape.
    """
    noise = tf.random.stateless_uniform(tf.shape(values), seed, minval=None, maxval=None, dtype=tf.uint32)
    bits = tf.bitcast(values, tf.uint32) + tf.bitwise.right_shift(noise, tf.constant(16, tf.uint32))
    kept = tf.bitwise.bitwise_and(bits, tf.constant(0xFFFF0000, tf.uint32))
    finite = tf.cast(tf.bitcast(kept, tf.float32), tf.bfloat16)  # exact: the lower half is zero
    return tf.where(tf.math.is_finite(values), finite, tf.cast(values, tf.bfloat16))
