"""The two-tower model: a `keras.Model` from encoded tensors to what the loss compares."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import SideName
from twotower_tf.features.layout import VECTOR_LAYERS, Layout
from twotower_tf.model import embeddings, history, towers
from twotower_tf.model.losses import candidates, registry
from twotower_tf.sampling import negatives_plan

SIDES: tuple[SideName, ...] = ("user", "item")
ITEM_PLACES = "places_of_items"  # an input of the model, see `build`


class TwoTower(keras.Model):
    """A functional model whose layers `user_vector` and `ad_vector` are its towers' ends.

    Of several workers each has all weights, and updates them alike: the gradients of a step are those of the workers'
    batches together (`model.replicas`). Weights are not the strategy's, which would send whole tables at the start.

    Attributes:
        strategy: computes the steps of several workers together; None for one worker.
        input_wait: seconds that steps have waited for their batches so far.
        step_end: when the last step was done, in epoch seconds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.strategy: tf.distribute.Strategy | None = None
        self.input_wait = tf.Variable(0.0, trainable=False, dtype=tf.float64, name="input_wait")
        self.step_end = tf.Variable(0.0, trainable=False, dtype=tf.float64, name="step_end")

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Runs Keras's own step with a clock; the time between a step's end and the next batch is waiting."""
        with tf.control_dependencies(tf.nest.flatten(data)):
            waited = self.input_wait.assign_add(tf.maximum(tf.timestamp() - self.step_end, 0.0))
        with tf.control_dependencies([waited]):
            data = tf.nest.map_structure(tf.identity, data)
        results = self.update(data) if self.strategy is None else self.strategy.run(self.update, args=(data,))
        # Asked after its update, whether a weight is there costs nothing; to read it might copy the table later.
        updated = [tf.raw_ops.VarIsInitializedOp(resource=weight.handle) for weight in self.trainable_weights]
        with tf.control_dependencies([*tf.nest.flatten(results), *updated]):
            self.step_end.assign(tf.timestamp())
        return results

    def update(self, data: Any) -> dict[str, tf.Tensor]:
        """Runs Keras's own step; returns the metrics so far."""
        return super().train_step(data)  # type: ignore[no-any-return]


def build(config: ExperimentConfig, shards: int = 1, sides: Collection[SideName] = SIDES) -> TwoTower:
    """Builds and compiles nothing but the graph of layers; each embedding table has so many shards.

    A side that is not among `sides` has no tower, and no table in memory: its vectors are an input. All other weights
    have the names that they have in the whole model.

    Inputs are the encoded tensors, named as `batch_names` says: of items first the rows' own, then the rows' negatives,
    those of one row together, then what all rows share. `registry.inputs` names those of the loss, which is a layer
    that adds itself. The output is the loss layer's, see `CandidateLoss.compare`.

    Where `negatives_plan.reads_items_once`, each item of a batch is there once, and `ITEM_PLACES`, int32 `[items of all
    rows]`, says where in the batch the rows' items are. With rows that are sequences a causal history is `[sequences,
    length]`; `towers.PLACES` ends the name of the input that says what each row has seen of it. All else has one row
    per event, as with rows of events. With rows that are users, the user tower's inputs have one row
    per user, and `candidates.USER_PLACES` says whose each event is.
    """
    placed, tables = embeddings.plan_tables(config), embeddings.tables(config, shards)
    inputs: dict[str, Any] = {}
    vectors: dict[str, Any] = {}
    for side in SIDES:
        if side not in sides:
            inputs[f"vectors_of_{side}"] = keras.Input((config.model.vector_dim,), name=f"vectors_of_{side}")
            vectors[side] = inputs[f"vectors_of_{side}"]
            continue
        encoded = towers.inputs(config, side)
        inputs.update({towers.input_name(side, key): tensor for key, tensor in encoded.items()})
        vectors[side] = towers.tower(config, side, encoded, tables, placed)
    if negatives_plan.reads_items_once(config):
        inputs[ITEM_PLACES] = keras.Input((), dtype=tf.int32, name=ITEM_PLACES)
        vectors["item"] = tf.gather(vectors["item"], inputs[ITEM_PLACES])
    compared = {name: keras.Input(type_spec=candidates.SPECS[name], name=name) for name in registry.inputs(config)}
    pair = {candidates.USERS: vectors["user"], candidates.ITEMS: vectors["item"]}
    output = registry.layer(config)({**pair, **compared})
    return TwoTower(inputs=inputs | compared, outputs=output, name="two_tower")


def tower(model: keras.Model, side: SideName) -> keras.Model:
    """Returns the sub-model of one tower, sliced out by the name of its vector layer.

    Args:
        model: of `build`.
        side: "user" or "item".

    Returns:
        A model from that side's inputs alone to its unit-length vectors `[batch, vector_dim]`. Weights are shared. Of a
        model that is trained on sequences the tower takes a history per user, as if it were trained on events.
    """
    inputs = {name: tensor for name, tensor in model.input.items() if name.startswith(f"{side}_")}
    name = f"{side}_tower"
    sliced = keras.Model(inputs=inputs, outputs=model.get_layer(VECTOR_LAYERS[side]).output, name=name)
    sequences = [key for key in inputs if key + towers.PLACES in inputs]
    if not sequences:
        return sliced
    given = {
        key: keras.Input(type_spec=tensor.type_spec, name=key)
        for key, tensor in inputs.items()
        if not key.endswith(towers.PLACES)
    }
    newest = {key + towers.PLACES: history.find_newest_places(given[key]) for key in sequences}
    return keras.Model(inputs=given, outputs=sliced({**given, **newest}), name=name)


def batch_names(config: ExperimentConfig, side: SideName) -> dict[str, str]:
    """Returns the name of the model's input by key of the encoded tensor."""
    return {key: towers.input_name(side, key) for key in Layout(config, side).keys()}
