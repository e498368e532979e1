"""The towers: placement of tables, unit vectors, slices that hold what they need and no more."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.model.filled import fill_tables, filled_table
from twotower_tf.config import (
    BilateralSoftmax,
    Bucketized,
    CosineContrastive,
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    Mined,
    ModelConfig,
    Numeric,
    PairwiseLogistic,
    Popularity,
    Queue,
    SampledSoftmax,
    SamplingConfig,
    Tags,
    TripletHinge,
    Uniform,
)
from twotower_tf.model import embeddings, two_tower
from twotower_tf.model.embeddings import EmbeddingTable, Placement
from twotower_tf.model.layers import UnitLength
from twotower_tf.model.training_metrics import InBatchTopK
from twotower_tf.sampling import negatives_plan

BOTH = {
    "bce": (CosineLogitBCE(), (Uniform(),)),
    "softmax": (InBatchSoftmax(), (InBatch(),)),
}
LOSSES = {
    "in-batch": (InBatchSoftmax(learn_temperature=True), (InBatch(), Uniform(2), Queue(size=5))),
    "sampled": (SampledSoftmax(), (Uniform(4, shared=True), Popularity(3, shared=True))),
    "bilateral": (BilateralSoftmax(), (Uniform(3),)),
    "contrastive": (CosineContrastive(margin=-0.9), (InBatch(), Queue(size=9))),
    "pairwise": (PairwiseLogistic(learn_temperature=True), (InBatch(), Uniform(2), Queue(size=3))),
    "triplet": (TripletHinge(margin=1.5), (Uniform(2, shared=True), Mined())),
}


def experiment(loss="bce", **model):
    chosen, negatives = {**BOTH, **LOSSES}[loss]
    return ExperimentConfig(
        name="t",
        data=DataConfig(timestamp="ts"),
        item_features=(
            Hash("item_id", buckets=50),
            Hash("site", buckets=20),
            Tags("topics", buckets=11),
            Numeric("price"),
        ),
        user_features=(
            Hash("user_id", buckets=40),
            Hash("home", buckets=20, shared_with="site"),
            Bucketized("age", buckets=7, embedding_dim=4),
            Numeric("income", embedding_dim=3),
            Tags("interests", buckets=13),
            History(of="item_id", length=5),
        ),
        model=ModelConfig(embedding_dim=8, vector_dim=6, item_hidden=(16,), user_hidden=(16, 16), **model),
        loss=chosen,
        sampling=SamplingConfig(negatives),
    )


def user_batch(rows, **changes):
    rng = np.random.default_rng(5)
    batch = {
        "user_ids": np.stack([rng.integers(0, n, rows) for n in (40, 20, 7)], axis=1).astype(np.int32),
        "user_numeric": rng.normal(size=(rows, 1)).astype(np.float32),
        "user_values0": rng.integers(0, 13, (rows, 3)).astype(np.int32),
        "user_values1": rng.integers(0, 50, (rows, 4)).astype(np.int32),
    }
    return {**batch, **changes}


def test_tables_lie_apart_by_use_and_dimension():
    placed = embeddings.plan_tables(experiment())
    assert placed == {
        ("item", "item_id"): Placement("shared_embedding_8", 0, 50, 8),
        ("user", "history"): Placement("shared_embedding_8", 0, 50, 8),
        ("item", "site"): Placement("shared_embedding_8", 50, 20, 8),
        ("user", "home"): Placement("shared_embedding_8", 50, 20, 8),
        ("item", "topics"): Placement("item_embedding_8", 0, 11, 8),
        ("user", "user_id"): Placement("user_embedding_8", 0, 40, 8),
        ("user", "age"): Placement("user_embedding_4", 0, 7, 4),
        ("user", "interests"): Placement("user_embedding_8", 40, 13, 8),
    }
    rows = {name: table.rows for name, table in embeddings.tables(experiment()).items()}
    assert rows == {"item_embedding_8": 11, "shared_embedding_8": 70, "user_embedding_4": 7, "user_embedding_8": 53}


def test_embeddings_are_rows_at_offsets_and_zero_without_a_value():
    table = filled_table(10, 3)
    ids = tf.constant([[0, 2], [-1, 1]], tf.int32)
    got = table(ids, offsets=[0, 5]).numpy()
    weights = table.table.numpy()
    np.testing.assert_array_equal(got, [[weights[0], weights[7]], [np.zeros(3), weights[6]]])


def test_no_value_moves_no_embedding():
    table = EmbeddingTable(4, 2)
    table.build(None)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(table(tf.constant([[-1, 2]]), offsets=[0]))
    gradient = tf.convert_to_tensor(tape.gradient(loss, table.table)).numpy()
    np.testing.assert_array_equal(gradient, [[0, 0], [0, 0], [1, 1], [0, 0]])


def test_the_mean_counts_only_values_that_are_there():
    table = filled_table(9, 3)
    ids = np.array([[1, -1, 3, 1], [-1, -1, -1, -1], [0, 2, 3, -1]], np.int32)
    with tf.GradientTape() as tape:
        got = table(tf.constant(ids), offsets=[4], mean=True)
        loss = tf.reduce_sum(got * tf.constant([[1.0], [10.0], [100.0]]))
    weights = table.table.numpy()
    expected = [(2 * weights[5] + weights[7]) / 3, np.zeros(3), (weights[4] + weights[6] + weights[7]) / 3]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    gradient = tf.convert_to_tensor(tape.gradient(loss, table.table)).numpy()[:, 0]
    np.testing.assert_allclose(gradient, [0, 0, 0, 0, 100 / 3, 2 / 3, 100 / 3, 1 / 3 + 100 / 3, 0], rtol=1e-6)


def test_unit_length_even_of_nothing():
    x = tf.Variable([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e15, 1e15]])
    with tf.GradientTape() as tape:
        got = UnitLength()(x)
        loss = tf.reduce_sum(got * tf.constant([1.0, 2.0]))
    half = 0.5**0.5
    np.testing.assert_allclose(got.numpy(), [[0.6, 0.8], [half, half], [half, half], [half, half]], atol=1e-6)
    assert np.isfinite(tape.gradient(loss, x).numpy()).all()


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_a_slice_answers_as_the_whole_model_and_holds_only_its_side(loss):
    model = fill_tables(two_tower.build(experiment(loss)))
    user, item = two_tower.tower(model, "user"), two_tower.tower(model, "item")
    assert user.layers[-1].name == "user_vector" and item.layers[-1].name == "ad_vector"
    names = {weight.name.split("/")[0] for weight in user.weights}
    assert "item_embedding_8" not in names and not any(name.startswith("item_") for name in names)
    vectors = user(user_batch(4)).numpy()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    inside = keras.Model(model.input, model.get_layer("user_vector").output)
    items = {
        "item_ids": np.ones((4, 2), np.int32),
        "item_numeric": np.ones((4, 1), np.float32),
        "item_values0": np.ones((4, 1), np.int32),
        "positive_log_q": np.zeros((4, 1), np.float32),
        "column_log_q": np.zeros((4, 1), np.float32),
        "hits": np.stack([np.arange(4), np.arange(4)], axis=1).astype(np.int32),
        "sample_weight": np.ones((4, 1), np.float32),
        "label": np.ones((4, 1), np.float32),
        "negative_weight": np.ones((4, 4), np.float32),
    }
    given = {name: value for name, value in {**user_batch(4), **items}.items() if name in model.input}
    np.testing.assert_allclose(inside(given).numpy(), vectors, atol=1e-6)


def test_padding_does_not_change_a_vector():
    user = two_tower.tower(fill_tables(two_tower.build(experiment())), "user")
    history = np.array([[4, 9]], np.int32)
    padded = np.array([[4, -1, 9, -1, -1]], np.int32)
    short = user(user_batch(1, user_values1=history)).numpy()
    np.testing.assert_allclose(user(user_batch(1, user_values1=padded)).numpy(), short, atol=1e-6)


def test_a_history_reads_the_items_own_embeddings():
    model = fill_tables(two_tower.build(experiment()))
    user = two_tower.tower(model, "user")
    before = user(user_batch(1, user_values1=np.array([[7]], np.int32))).numpy()
    table = model.get_layer("shared_embedding_8").table
    table.assign(tf.tensor_scatter_nd_add(table, [[7]], [[1.0] * 8]))
    after = user(user_batch(1, user_values1=np.array([[7]], np.int32))).numpy()
    assert np.abs(after - before).max() > 1e-3


def test_residual_blocks_add_their_input():
    model = fill_tables(two_tower.build(experiment(residual=True)))
    user = two_tower.tower(model, "user")
    for layer in user.layers:
        if layer.name in ("user_hidden_1", "user_hidden_2"):
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    # With dead hidden layers the shortcut alone carries the features: vectors still differ from user to user.
    vectors = user(user_batch(3)).numpy()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    plain = two_tower.tower(fill_tables(two_tower.build(experiment())), "user")
    for layer in plain.layers:
        if layer.name in ("user_hidden_1", "user_hidden_2"):
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    vectors = plain(user_batch(3)).numpy()
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.mark.parametrize("residual", [False, True])
def test_layer_norm_is_that_of_ba_et_al_before_the_layer(residual):
    item = two_tower.tower(fill_tables(two_tower.build(experiment(residual=residual, layer_norm=True))), "item")
    rng = np.random.default_rng(8)
    for layer in item.layers:
        if layer.name.startswith(("item_hidden", "item_projection")):
            layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    inputs = {
        "item_ids": np.stack([rng.integers(0, n, 5) for n in (50, 20)], axis=1).astype(np.int32),
        "item_numeric": rng.normal(size=(5, 1)).astype(np.float32),
        "item_values0": rng.integers(0, 11, (5, 2)).astype(np.int32),
    }
    x = keras.Model(item.input, item.get_layer("item_features").output)(inputs).numpy()
    gain, bias = item.get_layer("item_hidden_1_norm").get_weights()
    centred = x - x.mean(axis=1, keepdims=True)
    normal = gain * centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6) + bias
    kernel, shift = item.get_layer("item_hidden_1").get_weights()
    hidden = np.maximum(normal @ kernel + shift, 0)
    if residual:
        hidden += x @ item.get_layer("item_hidden_1_shortcut").get_weights()[0]
    kernel, shift = item.get_layer("item_projection").get_weights()
    vectors = hidden @ kernel + shift
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(item(inputs).numpy(), expected, atol=2e-5)


def test_a_new_table_is_zero():
    table = EmbeddingTable(70_000, 16)
    table.build(None)
    assert table.table.shape == (70_000, 16) and not table.table.numpy().any()


def drawn_table(seed, *, rows=70_000, name="some", dtype="float32", chosen=None):
    table = EmbeddingTable(rows, 16, table_dtype=dtype, name=name)
    table.build(None)
    table.draw_rows(np.ones(rows, bool) if chosen is None else chosen, seed)
    return tf.cast(table.table, tf.float32).numpy()


def test_random_content_is_uniform_and_the_same_for_the_same_seed():
    drawn = drawn_table(5)  # more than one part
    assert -0.25 <= drawn.min() < -0.2499 and 0.2499 < drawn.max() < 0.25
    # A million numbers, uniform between ±1/4: a mean of 0 ± 0.00014, a deviation of 0.25/√3 = 0.14434 ± 0.00006.
    assert abs(drawn.mean()) < 6e-4 and abs(drawn.std() - 0.14434) < 3e-4
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.02
    assert len(np.unique(drawn[:, :4].view([("", np.float32)] * 4))) > 69_990
    np.testing.assert_array_equal(drawn, drawn_table(5))
    assert np.abs(drawn - drawn_table(6)).mean() > 0.1
    assert np.abs(drawn - drawn_table(5, name="other")).mean() > 0.1
    np.testing.assert_allclose(drawn_table(5, dtype="bfloat16"), drawn, rtol=2**-8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_chosen_rows_without_content_are_drawn(dtype):
    chosen = np.random.default_rng(0).random(70_000) < 0.3
    chosen[65_536:69_000] = False
    drawn = drawn_table(5, dtype=dtype, chosen=chosen)
    np.testing.assert_array_equal(drawn[chosen], drawn_table(5, dtype=dtype)[chosen])
    assert not drawn[~chosen].any()
    table = EmbeddingTable(70_000, 16, table_dtype=dtype, name="some")
    table.build(None)
    held = np.zeros((70_000, 16), np.float32)
    held[::7, 3] = 0.5  # a row with a single number that is not zero has content
    table.table.assign(tf.cast(held, dtype))
    table.draw_rows(chosen, 5)
    got = tf.cast(table.table, tf.float32).numpy()
    np.testing.assert_array_equal(got[::7], held[::7])
    others = np.arange(70_000) % 7 != 0
    np.testing.assert_array_equal(got[others], drawn[others])


def test_a_bfloat16_table_answers_in_float32():
    table = filled_table(10, 3, table_dtype="bfloat16")
    got = table(tf.constant([[7, -1]], tf.int32), offsets=[0])
    assert table.table.dtype == tf.bfloat16 and got.dtype == tf.float32
    np.testing.assert_array_equal(got[0], [tf.cast(table.table, tf.float32)[7], [0, 0, 0]])
    mean = table(tf.constant([[7, 2]], tf.int32), offsets=[0], mean=True)
    expected = tf.reduce_mean(tf.gather(tf.cast(table.table, tf.float32), [7, 2]), axis=0)
    np.testing.assert_allclose(mean[0], expected, rtol=1e-6)


def training_batch(config, rows, seed):
    """A step's inputs with everything that the configuration's loss takes; queues are full."""
    rng, plan = np.random.default_rng(seed), negatives_plan.plan_negatives(config)
    n, columns = plan.per_row, plan.columns(rows)
    items = rows * (1 + n) + plan.for_all
    x = {
        **user_batch(rows),
        "item_ids": rng.integers(0, 20, (items, 2)).astype(np.int32),
        "item_numeric": rng.normal(size=(items, 1)).astype(np.float32),
        "item_values0": rng.integers(0, 11, (items, 2)).astype(np.int32),
        "positive_log_q": np.full((rows, 1), -3.0, np.float32),
        "sample_weight": np.ones((rows, 1), np.float32),
    }
    if n:
        x |= {"negative_log_q": np.full((rows, n), -2.0, np.float32), "negative_weight": np.ones((rows, n), np.float32)}
    if columns:
        x["column_log_q"] = np.full((columns, 1), -3.0, np.float32)
        x["hits"] = np.stack([np.arange(rows if plan.in_batch else 0)] * 2, axis=1).astype(np.int32)
    return x, np.ones((rows, 1), np.float32), np.ones((rows, 1), np.float32)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_leaves_its_weights_out_of_the_towers(loss):
    keras.utils.set_random_seed(6)
    model = two_tower.build(experiment(loss))
    model.compile(keras.optimizers.SGD(0.05), weighted_metrics=[InBatchTopK(1)])
    batch = training_batch(experiment(loss), 4, 1)
    steps = tf.data.Dataset.from_tensors(batch).repeat()
    history = model.fit(steps, steps_per_epoch=1, epochs=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][1] and 0.0 <= history["in_batch_top_1"][-1] <= 1.0
    assert ("masked_share" in history) == (loss != "bilateral")
    names = [weight.name for weight in model.weights]
    assert len(set(names)) == len(names)
    own = {"in-batch": ["log_temperature", "queue"], "sampled": ["log_temperature"], "contrastive": ["queue"]}
    own |= {"pairwise": ["log_temperature", "queue"]}
    assert sorted(name for name in names if name.startswith("loss/")) == [
        f"loss/{name}:0" for name in own.get(loss, [])
    ]
    towers = {side: two_tower.tower(model, side) for side in ("user", "item")}
    for tower in towers.values():
        assert not any(weight.name.startswith("loss/") for weight in tower.weights)
    if "queue" in own.get(loss, []):
        items = {name: value[:4] for name, value in batch[0].items() if name.startswith("item_")}
        now = towers["item"](items).numpy()
        model.fit(steps, steps_per_epoch=1, verbose=0)
        queue = model.get_layer("loss").past.numpy()
        np.testing.assert_allclose(queue[-4:], now[-len(queue) :], atol=1e-6)


def test_fractions_of_a_weight_count_in_the_figures_of_ranks():
    """Keras casts weights to the ranks' type: as integers they would be cut down to nothing."""
    config = experiment("in-batch")
    model = two_tower.build(config)
    model.compile(keras.optimizers.SGD(0.0), weighted_metrics=[InBatchTopK(1), InBatchTopK(1000)])
    x, y, _ = training_batch(config, 4, 1)
    weights = np.full((4, 1), 0.25, np.float32)
    model.fit(tf.data.Dataset.from_tensors(({**x, "sample_weight": weights}, y, weights)), verbose=0)
    figures = {metric.name: metric for metric in model.metrics}
    assert float(figures["in_batch_top_1000"].result()) == 1.0
    assert float(figures["in_batch_top_1000"].count) == float(figures["in_batch_top_1"].count) == 1.0
