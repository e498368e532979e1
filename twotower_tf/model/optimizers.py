"""An optimizer for both the towers' dense weights and embedding tables, of which a step reads a few rows.

The cost of a step does not depend on the size of the tables: no operation reads or writes a whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import Adagrad, Adam, AdamW, LazyAdam, RowwiseAdagrad, TrainConfig
from twotower_tf.config.training import TableOptimizer, TowerOptimizer
from twotower_tf.model import replicas, row_shards
from twotower_tf.model.row_shards import Rows, RowShards

Slots = tuple[tf.Variable, ...]

# Private attributes of tf_keras 2.20 that `TowersAndTables` overrides, calls or sets.
PRIVATE_KERAS_HOOKS = (
    "_build_learning_rate",
    "_built",
    "_deduplicate_sparse_grad",
    "_index_dict",
    "_internal_apply_gradients",
    "_learning_rate",
    "_serialize_hyperparameter",
    "_var_key",
    "_variables",
)


def slot_numbers(optimizer: TableOptimizer, dim: int) -> int:
    """Returns the number of float32 values of optimizer state per table row."""
    match optimizer:
        case RowwiseAdagrad():
            return 1
        case Adagrad():
            return dim
        case LazyAdam():
            return 2 * dim


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up and exponential decay, in steps of epochs or continuous.

    lr(t) = initial · min(1, (t + 1) / warmup_steps) · rate^(t / (steps_per_epoch · lr_decay_epochs)), the exponent
    rounded down for a staircase.
    """

    def __init__(self, config: TrainConfig, steps_per_epoch: int) -> None:
        self.config = config
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate, float32 `[]`, of a step counted from 0."""
        config, step = self.config, tf.cast(step, tf.float32)
        exponent = step / (self.steps_per_epoch * config.lr_decay_epochs)
        if config.lr_staircase:
            exponent = tf.floor(exponent)
        rate = config.initial_lr * tf.pow(config.lr_decay_rate, exponent)
        return rate * tf.minimum(1.0, (step + 1.0) / max(1, config.warmup_steps))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"config": self.config, "steps_per_epoch": self.steps_per_epoch}


@dataclass(frozen=True)
class _StepState:
    """Values shared by the updates of one step, computed once.

    Attributes:
        rate: learning rate of the towers.
        table_rate: learning rate of the tables.
        step: int64, counted from 0.
        powers: β₁ᵗ and β₂ᵗ of the towers' rule, with t counted from 1.
    """

    rate: tf.Tensor
    table_rate: tf.Tensor
    step: tf.Tensor
    powers: tuple[tf.Tensor, tf.Tensor]


class TowersAndTables(keras.optimizers.Optimizer):
    """Applies one rule to dense weights (towers), and another to the table rows that a step reads.

    Towers, Adam (Kingma and Ba, 2015, algorithm 1), t counted from 1: m ← β₁·m + (1 - β₁)·g, v ← β₂·v + (1 - β₂)·g²,
    w ← w - lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ)·m/(√v + ε). AdamW (Loshchilov and Hutter, 2019, algorithm 2): in addition, and
    before the update, w ← w·(1 - lr·decay) for kernels.

    Tables, g being the sum of a row's gradients in the batch:
        RowwiseAdagrad: a ← a + mean(g²), w ← w - lr·g/(√a + ε), one a per row (Mudigere et al., "Software-Hardware
            Co-design for Fast and Scalable Training of Deep Learning Recommendation Models", 2022, section 4.1.2).
        Adagrad: a ← a + g², w ← w - lr·g/(√a + ε), element-wise (Duchi et al., 2011).
        LazyAdam: Adam whose moments decay only when the row is read.
    With weight decay, w ← w·(1 - lr·decay) for the rows that a step reads, before the update.

    Private hooks of tf_keras: Keras has no public way to share values among the updates of a step, to sum sparse
    gradients in float32, or to keep float32 state for a bfloat16 weight. `PRIVATE_KERAS_HOOKS` lists the attributes
    used instead. `tests/model/test_optimizers.py` checks each of them, and names the one that a new tf_keras changes.
    """

    def __init__(
        self,
        towers: TowerOptimizer,
        tables: TableOptimizer,
        schedule: keras.optimizers.schedules.LearningRateSchedule | float,
        table_share: float,
        seed: int = 0,
    ) -> None:
        """Configures the optimizer.

        Args:
            towers: rule of dense weights.
            tables: rule of tables.
            schedule: learning rate of the towers.
            table_share: learning rate of the tables, as a multiple of that of the towers.
            seed: random seed of the stochastic rounding of bfloat16 tables.
        """
        # Weight decay 0, the default, would write whole tables to decay them by 0; compiled updates, the default where
        # there is a GPU, would be compiled again for every number of rows.
        super().__init__("optimizer", weight_decay=None, jit_compile=False)
        self.towers = towers
        self.tables = tables
        self.table_share = table_share
        self.seed = seed
        self._learning_rate = self._build_learning_rate(schedule)

    def build(self, var_list: Any) -> None:
        """Creates the state of every weight, initially zero."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        self._optimized = list(var_list)
        self._slots = [self._create_slots(variable) for variable in var_list]

    def list_state(self) -> list[Rows]:
        """Lists the optimizer's variables; the state of all shards of a table is one, and in its place."""
        slots = {id(slot) for of_one in self._slots for slot in of_one}
        state: list[Rows] = [each for each in self.variables if id(each) not in slots]
        place = 0
        for each in row_shards.join_parts(self._optimized):
            if isinstance(each, RowShards):
                parts = self._slots[place : place + len(each.parts)]
                state += [RowShards(of_all, of_all[0].name) for of_all in zip(*parts, strict=True)]
                place += len(parts)
            else:
                state.extend(self._slots[place])
                place += 1
        return state

    def _create_slots(self, variable: tf.Variable) -> Slots:
        if row_shards.find_table(variable) is None or isinstance(self.tables, LazyAdam):
            return tuple(self._create_slot(variable, name, variable.shape) for name in ("m", "v"))
        shape = variable.shape[:1] if isinstance(self.tables, RowwiseAdagrad) else variable.shape
        return (self._create_slot(variable, "a", shape),)

    def _create_slot(self, variable: tf.Variable, name: str, shape: Any) -> tf.Variable:
        """Creates a state variable of zeros where the weight is, float32 also for a bfloat16 table."""
        with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
            slot = tf.Variable(
                lambda: tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=True),
                trainable=False,
                name=f"{name}/{variable.name.partition(':')[0]}",
                shape=shape,
                dtype=tf.float32,
            )
        self._variables.append(slot)
        return slot

    def aggregate_gradients(self, grads_and_vars: Any) -> Any:
        """Adds up the gradients of all workers, of a table each row once."""
        if replicas.count_replicas() == 1:
            return grads_and_vars
        grads, variables = zip(*grads_and_vars, strict=True)
        return replicas.sum_gradients(zip(self._deduplicate_sparse_grad(grads), variables, strict=True))

    def _deduplicate_sparse_grad(self, grads: Any) -> list[Any]:
        """Sums the gradients of rows that were read several times, in float32."""
        return [_sum_by_row(grad) if isinstance(grad, tf.IndexedSlices) else grad for grad in grads]

    def _internal_apply_gradients(self, grads_and_vars: Any) -> Any:
        """Computes the values shared by all updates, and updates all weights."""
        step, rate = tf.identity(self.iterations), tf.identity(self.learning_rate)
        table_rate = rate * self.table_share
        self._now = _StepState(rate, table_rate, step, _powers(self.towers, step))
        # Not Keras's own, which calls the strategy for each weight: every worker has and updates its own weights.
        return super(keras.optimizers.Optimizer, self)._internal_apply_gradients(grads_and_vars)

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Updates one weight; gradients of tables are `tf.IndexedSlices` with distinct rows."""
        place = self._index_dict[self._var_key(variable)]
        if isinstance(gradient, tf.IndexedSlices):
            # Of a table on a server, the rows' gradients alone travel: all is computed there.
            with tf.device(variable.device if row_shards.is_served(variable) else None):
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
            before = [tf.gather(slot, rows) for slot in slots]
            m = rule.beta_1 * before[0] + (1.0 - rule.beta_1) * gradient
            v = rule.beta_2 * before[1] + (1.0 - rule.beta_2) * tf.square(gradient)
            _replace_rows(slots[0], rows, before[0], m)
            _replace_rows(slots[1], rows, before[1], v)
            change = rate_now * m / (tf.sqrt(v) + rule.epsilon)
        elif isinstance(rule, RowwiseAdagrad):
            held = tf.gather(slots[0], rows)
            a = held + tf.reduce_mean(tf.square(gradient), axis=1)
            _replace_rows(slots[0], rows, held, a)
            change = gradient * (rate / (tf.sqrt(a) + rule.epsilon))[:, tf.newaxis]
        else:
            held = tf.gather(slots[0], rows)
            a = held + tf.square(gradient)
            _replace_rows(slots[0], rows, held, a)
            change = rate * gradient / (tf.sqrt(a) + rule.epsilon)
        held = tf.cast(tf.gather(table, rows), tf.float32)
        moved = held * (1.0 - rate * rule.weight_decay) if rule.weight_decay else held
        moved -= change
        if table.dtype == tf.bfloat16:
            moved = round_stochastically(moved, tf.stack([self._now.step * 1000 + place, self.seed]))
        _replace_rows(table, rows, held, moved)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        own = {name: getattr(self, name) for name in ("towers", "tables", "table_share", "seed")}
        return {"schedule": self._serialize_hyperparameter(self._learning_rate), **own}


def make_optimizer(config: TrainConfig, steps_per_epoch: int, seed: int) -> TowersAndTables:
    """Creates the optimizer of a configuration.

    Args:
        config: the training configuration.
        steps_per_epoch: batches per epoch, as learning rates decay by epochs.
        seed: random seed of the experiment.
    """
    schedule = Schedule(config, steps_per_epoch)
    share = config.table_optimizer.initial_lr / config.initial_lr
    return TowersAndTables(config.optimizer, config.table_optimizer, schedule, share, seed)


def _replace_rows(table: tf.Variable, rows: tf.Tensor, before: tf.Tensor, after: tf.Tensor) -> None:
    """Overwrites distinct rows. On a server the difference is added: other workers may have changed them meanwhile."""
    if row_shards.is_served(table) and table.dtype == tf.float32:
        table.scatter_add(tf.IndexedSlices(after - before, rows))
    else:  # gather and `scatter_update` take half the time of `scatter_sub`, which adds row by row
        table.scatter_update(tf.IndexedSlices(after, rows))


def _powers(rule: Adam | AdamW | LazyAdam, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    counted = tf.cast(step + 1, tf.float32)
    return tf.pow(rule.beta_1, counted), tf.pow(rule.beta_2, counted)


def _sum_by_row(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(tf.cast(gradient.values, tf.float32), places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def round_stochastically(values: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rounds to bfloat16 stochastically, so that the expected value is the value itself.

    Rounding to nearest would lose all updates smaller than 1/512 of a weight (Gupta et al., "Deep Learning with Limited
    Numerical Precision", 2015, section 3.1).

    Args:
        values: float32, any shape.
        seed: int64 `[2]`, random seed; equal seeds give equal results.

    Returns:
        bfloat16, the same shape.
    """
    noise = tf.random.stateless_uniform(tf.shape(values), seed, minval=None, maxval=None, dtype=tf.uint32)
    bits = tf.bitcast(values, tf.uint32) + tf.bitwise.right_shift(noise, tf.constant(16, tf.uint32))
    kept = tf.bitwise.bitwise_and(bits, tf.constant(0xFFFF0000, tf.uint32))
    finite = tf.cast(tf.bitcast(kept, tf.float32), tf.bfloat16)  # exact: the lower half is zero
    return tf.where(tf.math.is_finite(values), finite, tf.cast(values, tf.bfloat16))
