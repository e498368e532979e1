"""History encoders with weights against NumPy, one history and one value at a time; order, padding, SavedModels."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.model.filled import fill_tables
from twotower_tf.config import (
    GRU,
    Attention,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatchSoftmax,
    ModelConfig,
    Numeric,
    SelfAttention,
    TrainConfig,
    history_encoder,
    history_encoders,
)
from twotower_tf.config.base import config_class
from twotower_tf.config.history_encoders import HistoryEncoder
from twotower_tf.model import history, two_tower
from twotower_tf.train import training_memory

DIM, LENGTH = 6, 5
# Oldest first, -1 is padding. The last row has no history.
IDS = np.array([[3, 1, 4, 1, 5], [7, 9, 2, -1, -1], [6, -1, -1, -1, -1], [-1, -1, -1, -1, -1]], np.int32)
OTHERS = {
    "user_ids": np.array([[1], [2], [0], [3]], np.int32),
    "user_numeric": np.array([[0.5], [-1.0], [2.0], [0.1]], np.float32),
}


def experiment(encoder, rows=None):
    return ExperimentConfig(
        name="t",
        data=DataConfig(timestamp="ts"),
        item_features=(Hash("item_id", buckets=10),),
        user_features=(
            Hash("country", buckets=4, embedding_dim=3),
            Numeric("age"),
            History(of="item_id", length=LENGTH, encoder=encoder),
        ),
        model=ModelConfig(embedding_dim=DIM, vector_dim=10, item_hidden=(), user_hidden=()),
        loss=InBatchSoftmax(),
        train=TrainConfig(monitor="", rows=rows),
    )


def filled_model(encoder, rows=None):
    """The model with random weights, and a user projection that passes the features on; its weights by short name."""
    model = fill_tables(two_tower.build(experiment(encoder, rows)))
    rng = np.random.default_rng(8)
    for weight in model.trainable_weights:
        if "user_history" in weight.name:
            weight.assign(rng.normal(size=weight.shape) * 0.7)
    model.get_layer("user_projection").kernel.assign(np.eye(10))
    weights = {weight.name.split("user_history_0/")[-1][:-2]: weight.numpy() for weight in model.weights}
    return model, weights


def histories_of(tower, ids=IDS):
    """What the encoder made of each history: the vector's part that is neither country nor age, and its length."""
    vectors = tower({**{key: value[: len(ids)] for key, value in OTHERS.items()}, "user_values0": ids}).numpy()
    # Features are (country 3, history 6, age 1), divided by their length; age is known.
    return vectors[:, 3:9] * (OTHERS["user_numeric"][: len(ids)] / vectors[:, 9:])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def norm(x, w, name):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w.get(f"{name}/bias", 0.0)


def learned_attention(e, w, other):
    scores = [np.tanh(dense(x, w, "inner")) @ w["score/kernel"][:, 0] for x in e]
    return softmax(np.array(scores) + w["ages"][: len(e)][::-1]) @ e


def user_attention(e, w, other):
    q = dense(other, w, "query")
    inner = [np.maximum(dense(np.concatenate([x, q, x * q, x - q]), w, "inner"), 0) for x in e]
    return softmax(np.array(inner) @ w["score/kernel"][:, 0] + w["ages"][: len(e)][::-1]) @ e


def attend(queries, values, w, name, heads):
    """Attention at each place over the values up to there, head by head."""
    size = DIM // heads
    sources = {"query": queries, "key": values, "value": values}
    q, k, v = ([dense(x, w, f"{name}/{part}") for x in source] for part, source in sources.items())
    out = []
    for t in range(len(values)):
        parts = []
        for h in range(heads):
            cut = slice(h * size, (h + 1) * size)
            weights = softmax(np.array([q[t][cut] @ k[s][cut] for s in range(t + 1)]) / size**0.5)
            parts.append(sum(weights[s] * v[s][cut] for s in range(t + 1)))
        out.append(dense(np.concatenate(parts), w, f"{name}/output"))
    return out


def sasrec(e, w, other, heads=2):
    x = [a * len(a) ** 0.5 + b for a, b in zip(e, w["places"], strict=False)]
    for block in ("block_1", "block_2"):
        q = [norm(a, w, f"{block}/norm_1") for a in x]
        y = [a + b for a, b in zip(q, attend(q, x, w, f"{block}/attention", heads), strict=True)]
        z = [norm(a, w, f"{block}/norm_2") for a in y]
        x = [a + dense(np.maximum(dense(a, w, f"{block}/inner"), 0), w, f"{block}/outer") for a in z]
    return norm(x[-1], w, "norm")


def ligr(e, w, other):
    x = [a * len(a) ** 0.5 + b for a, b in zip(e, w["places"], strict=False)]
    n = [norm(a, w, "block_1/norm_1") for a in x]
    attended = attend(n, n, w, "block_1/attention", 1)
    y = [a + sigmoid(dense(a, w, "block_1/gate_1")) * b for a, b in zip(x, attended, strict=True)]
    last = norm(y[-1], w, "block_1/norm_2")
    inner = dense(last, w, "block_1/inner")
    added = dense(inner * sigmoid(inner) * dense(last, w, "block_1/linear"), w, "block_1/outer")
    return norm(y[-1] + sigmoid(dense(y[-1], w, "block_1/gate_2")) * added, w, "norm")


def gru(e, w, other):
    for layer in ("layer_1/cell", "layer_2/cell"):
        h, states = np.zeros(DIM), []
        kernel, recurrent, (b, c) = w[f"{layer}/kernel"], w[f"{layer}/recurrent_kernel"], w[f"{layer}/bias"]
        for x in e:
            (az, ar, ah), (bz, br, bh) = np.split(x @ kernel + b, 3), np.split(h @ recurrent + c, 3)
            z, r = sigmoid(az + bz), sigmoid(ar + br)
            h = z * h + (1 - z) * np.tanh(ah + r * bh)
            states.append(h)
        e = states
    return e[-1]


ENCODERS = {
    "learned": (Attention(hidden=4), learned_attention),
    "user": (Attention(query="user", hidden=4), user_attention),
    "sasrec": (SelfAttention(heads=2), sasrec),
    "sasrec, one head": (SelfAttention(), lambda e, w, other: sasrec(e, w, other, heads=1)),
    "ligr": (SelfAttention(block="ligr", blocks=1, hidden=7), ligr),
    "gru": (GRU(layers=2), gru),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_the_formula_of_its_source(name, tmp_path):
    encoder, oracle = ENCODERS[name]
    model, weights = filled_model(encoder)
    tower = two_tower.tower(model, "user")
    table, country = weights["shared_embedding_6/table"], weights["user_embedding_3/table"]
    expected = np.zeros((4, DIM))
    for row, ids in enumerate(IDS[:3]):
        other = np.concatenate([country[OTHERS["user_ids"][row, 0]], OTHERS["user_numeric"][row]])
        expected[row] = oracle(list(table[ids[ids >= 0]]), weights, other)
    np.testing.assert_allclose(histories_of(tower), expected, atol=2e-5)
    wider = np.concatenate([IDS, np.full((4, 2), -1, np.int32)], axis=1)  # padding beyond the length changes nothing
    np.testing.assert_allclose(histories_of(tower, wider), expected, atol=2e-5)
    assert not histories_of(tower, np.zeros((3, 0), np.int32)).any()  # a batch in which nobody has a history
    tf.saved_model.save(tower, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    served = loaded.signatures["serving_default"]
    given = {each.name.partition(":")[0]: each for each in served.structured_input_signature[1].values()}
    values = {"user_values0": IDS, **OTHERS}
    by_name = {name: next(values[key] for key in values if name in (key, key.removeprefix("user_"))) for name in given}
    vectors = served(**{key: tf.constant(value) for key, value in by_name.items()})
    np.testing.assert_allclose(next(iter(vectors.values())).numpy(), tower({**OTHERS, "user_values0": IDS}), atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_all_weights_of_an_encoder_are_trained(name):
    model, _ = filled_model(ENCODERS[name][0])
    tower = two_tower.tower(model, "user")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tower({**OTHERS, "user_values0": IDS}, training=True) * tf.range(10.0))
    weights = [weight for weight in tower.trainable_weights if "user_history" in weight.name]
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        assert isinstance(gradient, tf.Tensor), weight.name  # the optimizer takes slices for rows of tables
        # A softmax does not change with a constant that is added to all keys' scores.
        assert gradient.numpy().any() or "ages" in weight.name or weight.name.endswith("key/bias:0"), weight.name


@pytest.mark.parametrize("encoder", [SelfAttention(heads=3), SelfAttention(block="ligr"), GRU()])
def test_one_pass_gives_the_vector_of_each_shorter_history(encoder):
    model, _ = filled_model(encoder, "sequence")
    ordinary = two_tower.tower(model, "user")
    assert sorted(ordinary.input) == ["user_ids", "user_numeric", "user_values0"]
    sequences = np.array([[3, 1, 4, 1, 5], [7, 9, 2, -1, -1]], np.int32)
    places = np.array([[0, 1], [0, 5], [1, 0], [1, 2], [0, 3]], np.int32)
    # One row per event, each with a country and an age of its own.
    events = {
        "user_ids": np.array([[0], [1], [2], [3], [1]], np.int32),
        "user_numeric": np.linspace(-1, 1.5, 5, dtype=np.float32)[:, np.newaxis],
    }
    inputs = {name: tensor for name, tensor in model.input.items() if name.startswith("user_")}
    whole = keras.Model(inputs, model.get_layer("user_vector").output)
    got = whole({**events, "user_values0": sequences, "user_values0_places": places}).numpy()
    cut = np.full((5, LENGTH), -1, np.int32)
    for row, (sequence, seen) in enumerate(places):
        cut[row, :seen] = sequences[sequence, :seen]
    np.testing.assert_allclose(got, ordinary({**events, "user_values0": cut}).numpy(), atol=1e-5)
    later = np.where(np.arange(5) < 3, sequences, 8)  # what is after a place changes nothing there
    moved = whole({**events, "user_values0": later, "user_values0_places": places}).numpy()
    np.testing.assert_allclose(moved[[0, 2, 3, 4]], got[[0, 2, 3, 4]], atol=1e-6)
    assert np.abs(moved[1] - got[1]).max() > 1e-3


@pytest.mark.parametrize("block", ["sasrec", "ligr"])
@pytest.mark.parametrize("training", [False, True])  # where the last block computes some places, or all
def test_a_place_whose_value_is_left_out_sees_nothing_later(block, training):
    model, _ = filled_model(SelfAttention(block=block, dropout=0.0), "sequence")
    inputs = {name: tensor for name, tensor in model.input.items() if name.startswith("user_")}
    whole = keras.Model(inputs, model.get_layer("user_vector").output)
    events = {"user_ids": np.array([[0], [1]], np.int32), "user_numeric": np.zeros((2, 1), np.float32)}
    events["user_values0_places"] = np.array([[0, 1], [0, 3]], np.int32)
    sequences = (np.array([[-1, *later]], np.int32) for later in ([7, 9], [4, 2]))
    one, other = (whole({**events, "user_values0": each}, training=training).numpy() for each in sequences)
    np.testing.assert_allclose(one[0], other[0], atol=1e-6)
    assert np.abs(one[1] - other[1]).max() > 1e-3


def test_an_encoder_with_options_from_outside_is_chosen_by_name_and_class(monkeypatch):
    for module in (history, history_encoders):
        monkeypatch.setattr(module, "_ENCODERS", dict(module._ENCODERS))

    @history_encoder("oldest-for-a-test")
    @config_class
    class Oldest(HistoryEncoder):
        scale: float = 3.0
        type: Literal["Oldest"] = "Oldest"

    @history.registers("oldest-for-a-test")
    class OldestHistory(history.OptionsLayer):
        def call(self, embedded, present):
            return self.scale * embedded[:, 0]

    assert History(of="item_id", encoder="oldest-for-a-test").encoder == Oldest()
    model, weights = filled_model(Oldest(scale=0.5))
    expected = 0.5 * weights["shared_embedding_6/table"][IDS[:3, 0]]
    np.testing.assert_allclose(histories_of(two_tower.tower(model, "user"), IDS[:3]), expected, atol=1e-5)
    with pytest.raises(ValueError, match="invalid name 'gru' .already registered."):
        history_encoder("gru")(Oldest)
    with pytest.raises(ValueError, match=r'Untyped.type: missing .expected type: Literal\["Untyped"\] = "Untyped"'):
        history_encoder("untyped-for-a-test")(type("Untyped", (HistoryEncoder,), {}))


def test_a_memory_plan_counts_what_a_transformer_makes():
    # By place: the embedding, and of a block 8 vectors, 3 feed-forward layers and 2 rows of scores per head.
    per_place = 6 + 2 * (8 * 6 + 3 * 6 + 2 * 3 * 5)
    config = experiment(SelfAttention(heads=3), "event")
    event, sequence = (
        training_memory.estimate_memory(replace(config, train=train), 0).activations // (6 * 4 * 4096)
        for train in (TrainConfig(rows="event"), TrainConfig(rows="sequence", batch_size=4096))
    )
    mean = training_memory.estimate_memory(experiment("mean"), 0).activations // (6 * 4 * 4096)
    assert event - mean == LENGTH * per_place
    assert sequence > event  # of each of its events the towers' other layers, and the candidates' logits
