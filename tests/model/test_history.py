"""History encoders against NumPy, from the configuration's option to the vector, in the model and in a SavedModel."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.model.filled import fill_tables
from twotower_tf import config as configuration
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, InBatchSoftmax, ModelConfig, TrainConfig
from twotower_tf.errors import ConfigError
from twotower_tf.model import history, two_tower
from twotower_tf.train import training_memory

# Oldest first; -1 is padding or a past item without a value. The last row has no history.
IDS = np.array([[3, 1, 4, -1], [7, -1, 2, 5], [6, -1, -1, -1], [-1, -1, -1, -1]], np.int32)
# 0.9 to the number of later values of the row, by hand.
RECENCY = np.array([[0.81, 0.9, 1, 0], [0.81, 0, 0.9, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
WEIGHTS = {
    "mean": np.array([[1, 1, 1, 0], [1, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]) / [[3], [3], [1], [1]],
    "recency": RECENCY / [[2.71], [2.71], [1], [1]],
    "last": np.array([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]),
}


def experiment(encoder, time_gaps=""):
    return ExperimentConfig(
        name="t",
        data=DataConfig(timestamp="ts"),
        item_features=(Hash("site", buckets=5), Hash("item_id", buckets=10)),
        user_features=(History(of="item_id", length=4, encoder=encoder, time_gaps=time_gaps),),
        model=ModelConfig(embedding_dim=6, vector_dim=6, item_hidden=(), user_hidden=()),
        loss=InBatchSoftmax(),
        sampling=configuration.SamplingConfig((configuration.InBatch(),)),
        train=TrainConfig(monitor=""),
    )


def user_tower(encoder, time_gaps=""):
    """The tower with random tables and a projection that changes nothing; the table's rows of `item_id`."""
    model = fill_tables(two_tower.build(experiment(encoder, time_gaps)))
    model.get_layer("user_projection").kernel.assign(np.eye(6))
    table = model.get_layer("shared_embedding_6").table.numpy()
    return model, two_tower.tower(model, "user"), table


def unit(x):
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.where(length > 0, x / np.where(length > 0, length, 1), 6**-0.5)


@pytest.mark.parametrize("encoder", WEIGHTS)
def test_the_chosen_encoder_is_the_one_that_towers_compute(encoder, tmp_path):
    _, tower, table = user_tower(encoder)
    expected = unit(np.einsum("bl,bld->bd", WEIGHTS[encoder], table[np.maximum(IDS, 0)]))
    np.testing.assert_allclose(tower({"user_values0": IDS}).numpy(), expected, atol=1e-6)
    tf.saved_model.save(tower, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](values0=tf.constant(IDS))
    np.testing.assert_allclose(served["user_vector"].numpy(), expected, atol=1e-6)
    wider = np.concatenate([IDS, np.full((4, 2), -1, np.int32)], axis=1)  # padding changes nothing
    np.testing.assert_allclose(tower({"user_values0": wider}).numpy(), expected, atol=1e-6)
    empty = np.zeros((3, 0), np.int32)  # a batch in which nobody has a history
    np.testing.assert_allclose(tower({"user_values0": empty}).numpy(), np.full((3, 6), 6**-0.5), atol=1e-6)


@pytest.mark.parametrize("encoder", WEIGHTS)
def test_training_reaches_what_the_encoder_reads(encoder):
    model, tower, _ = user_tower(encoder)
    layer = model.get_layer("shared_embedding_6")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower({"user_values0": IDS[:2]})[:, 0])
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.table)).numpy()
    moved = set(np.flatnonzero(np.abs(gradient).max(axis=1) > 1e-7).tolist())
    assert moved == {"mean": {1, 2, 3, 4, 5, 7}, "recency": {1, 2, 3, 4, 5, 7}, "last": {4, 5}}[encoder]


GAPS = np.array([[3, 0, 31, -1], [-1, -1, 2, 5], [-1, -1, -1, -1], [-1, -1, -1, -1]], np.int32)


@pytest.mark.parametrize("encoder", WEIGHTS)
def test_the_embedding_of_a_gap_is_added_to_that_of_its_item(encoder):
    model, tower, table = user_tower(encoder, time_gaps="ts")
    layer = model.get_layer("user_history_0_time_gaps")
    given = {"user_values0": IDS, "user_values0_gaps": GAPS}
    items = table[np.maximum(IDS, 0)]
    plain = unit(np.einsum("bl,bld->bd", WEIGHTS[encoder], items))
    np.testing.assert_allclose(tower(given).numpy(), plain, atol=1e-6)  # before training a gap adds nothing
    gaps = np.random.default_rng(4).normal(size=(32, 6)).astype(np.float32)
    layer.embeddings.assign(gaps)
    added = np.where(GAPS[..., np.newaxis] >= 0, gaps[np.maximum(GAPS, 0)], 0)
    expected = unit(np.einsum("bl,bld->bd", WEIGHTS[encoder], items + added))
    np.testing.assert_allclose(tower(given).numpy(), expected, atol=1e-6)
    left_out = np.where(IDS == 3, -1, IDS)  # without an item (by dropout) its gap says nothing either
    rest = np.where(left_out[:1] >= 0, WEIGHTS[encoder][:1], 0)
    if encoder != "last":
        rest = rest / rest.sum()
    first = tower({"user_values0": left_out[:1], "user_values0_gaps": GAPS[:1]}).numpy()
    np.testing.assert_allclose(first, unit(np.einsum("bl,bld->bd", rest, (items + added)[:1])), atol=1e-6)


def test_a_memory_plan_counts_embedded_histories():
    mean, recency = (training_memory.estimate_memory(experiment(name), 0).activations for name in ("mean", "recency"))
    assert recency - mean == 6 * 4 * 4096 * 4 * 6  # copies, bytes, rows of a batch, values, dim


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ConfigError) as error:
        History(of="item_id", encoder="lst")
    assert str(error.value) == (
        "History.encoder: unknown encoder 'lst'; did you mean 'last'? (of one outside the package, name the module in "
        "TWOTOWER_EXTENSIONS)"
    )


def test_an_encoder_from_outside_is_chosen_by_its_name():
    @history.registers("scaled-max-for-a-test")
    class ScaledMax(keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(name="scale", shape=(), initializer=keras.initializers.Constant(2.0))

        def call(self, embedded, present):
            return self.scale * tf.reduce_max(tf.where(present[..., tf.newaxis], embedded, -9.0), axis=1)

    config = configuration.override(experiment("mean"), ["user_features.0.encoder=scaled-max-for-a-test"])
    assert config == configuration.from_json(configuration.to_json(config), "here")
    model, tower, table = user_tower("scaled-max-for-a-test")
    expected = unit(np.stack([table[[3, 1, 4]].max(axis=0), table[[7, 2, 5]].max(axis=0)]))
    np.testing.assert_allclose(tower({"user_values0": IDS[:2]}).numpy(), expected, atol=1e-6)
    assert "user_history_0/scale:0" in [weight.name for weight in tower.trainable_weights]
    with pytest.raises(ValueError, match="invalid name 'scaled-max-for-a-test' .already registered."):
        history.registers("scaled-max-for-a-test")(type("Other", (keras.layers.Layer,), {}))
    with pytest.raises(ValueError, match="invalid name 'mean'"):
        history.registers("mean")(ScaledMax)
