"""Dropout that continues after a resume; products that are narrow in training alone; the initial weight of numbers."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.model.filled import fill_tables
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, ModelConfig, Numeric
from twotower_tf.model import two_tower
from twotower_tf.model.layers import Dense, Dropout


def test_a_mixed_layer_multiplies_in_bfloat16_in_training_alone():
    rng = np.random.default_rng(4)
    x, kernel, bias = (rng.normal(size=size).astype(np.float32) for size in ((50, 30), (30, 20), (20,)))
    layer = Dense(20, "relu", mixed=True)
    layer.build((None, 30))
    layer.set_weights([kernel, bias])
    whole = np.maximum(x @ kernel + bias, 0.0)
    for training in (False, None):
        np.testing.assert_allclose(layer(x, training=training), whole, rtol=1e-5, atol=1e-5)

    def rounded(numbers):  # to bfloat16's eight binary digits, by frexp: no code of TensorFlow's
        fraction, exponent = np.frexp(numbers)
        return np.ldexp(np.round(fraction * 256.0) / 256.0, exponent)

    narrow = layer(x, training=True)
    assert narrow.dtype == tf.float32
    expected = np.maximum(rounded(rounded(x).astype(float) @ rounded(kernel)) + bias, 0.0)
    # The sum itself is float32's: a last bit of bfloat16 may fall either way.
    np.testing.assert_allclose(narrow, expected, rtol=1 / 128, atol=1e-5)
    assert np.mean(np.isclose(narrow, expected, rtol=1e-6, atol=1e-6)) > 0.99
    assert np.mean(np.isclose(narrow, whole, rtol=1e-6, atol=1e-6)) < 0.7  # of zeros, about a half
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x, training=True))
    by_kernel, by_bias = tape.gradient(loss, layer.trainable_weights)
    assert by_kernel.dtype == by_bias.dtype == tf.float32
    on = (expected > 0).astype(float)
    np.testing.assert_allclose(by_kernel, rounded(x).T @ on, rtol=1 / 100, atol=0.05)
    np.testing.assert_allclose(by_bias, on.sum(axis=0), rtol=1e-6)
    assert Dense.from_config(layer.get_config()).mixed


def test_dropout_drops_its_share_in_training_alone_and_goes_on_where_it_was():
    x = tf.ones((400, 50))
    layer = Dropout(0.2, seed=5)
    np.testing.assert_array_equal(layer(x, training=False), x)
    first, second = (layer(x, training=True).numpy() for _ in range(2))
    assert set(np.unique(first)) == {0.0, np.float32(1.25)}
    assert abs((first == 0).mean() - 0.2) < 0.015  # of 20,000: a deviation of 0.0028
    assert 0.25 < (first != second).mean() < 0.40  # 2 · 0.2 · 0.8 = 0.32, were they independent
    assert int(layer.steps) == 2
    resumed = Dropout(0.2, seed=5)
    resumed.build(x.shape)
    resumed.steps.assign(1)
    np.testing.assert_array_equal(resumed(x, training=True), second)
    assert (Dropout(0.2, seed=6)(x, training=True).numpy() != first).any()


def item_tower(*features, **model):
    keras.utils.set_random_seed(3)
    config = ExperimentConfig(
        name="t",
        data=DataConfig(),
        item_features=features,
        user_features=(Hash("user", buckets=9),),
        model=ModelConfig(embedding_dim=8, vector_dim=16, **model),
    )
    return two_tower.tower(fill_tables(two_tower.build(config)), "item")


@pytest.mark.parametrize(
    ("dim", "model"),
    [
        (None, {"item_hidden": (32,)}),
        (None, {"item_hidden": ()}),
        (None, {"item_hidden": (32, 32), "residual": True}),
        (4, {"item_hidden": (32,)}),
    ],
)
def test_a_number_starts_with_less_weight_than_the_id(dim, model):
    tower = item_tower(Hash("item", buckets=200), Numeric("count", embedding_dim=dim), **model)
    ids = np.arange(200, dtype=np.int32)[:, np.newaxis]

    def vectors(number):  # in standard deviations
        return tower({"item_ids": ids, "item_numeric": np.full((200, 1), number, np.float32)}).numpy()

    middle, late = vectors(0.0), vectors(2.0)
    of_one_item = (middle * late).sum(axis=1)
    # The squared length of an embedding is 1/3, that of the number 0.04: 0.94 before the layers that are not linear.
    assert 0.85 < of_one_item.mean() < 0.999
    mean_cosine = [(each @ each.T)[np.triu_indices(200, 1)].mean() for each in (middle, late)]
    assert mean_cosine[1] < mean_cosine[0] + 0.2  # items do not draw together because all their numbers grow


@pytest.mark.parametrize("dim", [None, 4])
def test_a_tower_of_numbers_alone_tells_them_apart_from_the_start(dim):
    numbers = (Numeric("price", embedding_dim=dim), Numeric("stock", embedding_dim=dim))
    tower = item_tower(*numbers, item_hidden=(128, 64))
    rows = np.array([[1, 0], [0, 1], [-1, 0], [1, -1]], np.float32)
    with tf.GradientTape() as tape:
        vectors = tower({"item_numeric": rows})
        loss = tf.reduce_sum(vectors[:, 0])
    cosines = np.tril(vectors.numpy() @ vectors.numpy().T, -1)
    assert cosines.max() < 0.99
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(loss, tower.trainable_weights))


def test_linear_towers_of_one_shared_table_begin_in_one_space():
    keras.utils.set_random_seed(3)
    past = History(of="item", length=4, encoder="last")
    config = ExperimentConfig(
        name="t",
        data=DataConfig(),
        item_features=(Hash("item", buckets=50),),
        user_features=(past,),
        model=ModelConfig(embedding_dim=8, vector_dim=8, item_hidden=(), user_hidden=()),
    )
    model = fill_tables(two_tower.build(config))
    users = two_tower.tower(model, "user")({"user_values0": np.array([[7, 3], [5, -1]], np.int32)})
    items = two_tower.tower(model, "item")({"item_ids": np.array([[3], [5]], np.int32)})
    np.testing.assert_allclose(np.sum(users * items, axis=1), 1.0, rtol=1e-5)


def test_values_are_left_out_in_training_alone_as_if_they_were_missing():
    tower = item_tower(
        Hash("item", buckets=9, dropout=0.3), Hash("kind", buckets=5), Numeric("price", dropout=0.4), item_hidden=()
    )
    ids, price = np.array([[3, 2]], np.int32), np.array([[1.5]], np.float32)
    given = {"item_ids": np.repeat(ids, 4000, axis=0), "item_numeric": np.repeat(price, 4000, axis=0)}
    wanted = {
        "item_ids": np.array([[3, 2], [-1, 2], [3, 2], [-1, 2]], np.int32),
        "item_numeric": np.array([[1.5], [1.5], [0.0], [0.0]], np.float32),
    }
    possible = tower(wanted).numpy()
    np.testing.assert_allclose(tower(given), np.repeat(possible[:1], 4000, axis=0), atol=1e-6)
    vectors = tower(given, training=True).numpy()
    distances = np.abs(vectors[:, np.newaxis] - possible).max(axis=2)
    assert distances.min(axis=1).max() < 1e-6
    shares = np.bincount(distances.argmin(axis=1), minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.42, 0.18, 0.28, 0.12], atol=0.03)  # deviations of at most 0.008
    assert not np.array_equal(tower(given, training=True), vectors)


def test_each_item_of_a_history_is_left_out_by_itself():
    keras.utils.set_random_seed(3)
    config = ExperimentConfig(
        name="t",
        data=DataConfig(timestamp="ts"),
        item_features=(Hash("item", buckets=50),),
        user_features=(History(of="item", length=4, encoder="last", dropout=0.5),),
        model=ModelConfig(embedding_dim=8, vector_dim=8, item_hidden=(), user_hidden=()),
    )
    tower = two_tower.tower(fill_tables(two_tower.build(config)), "user")
    possible = tower({"user_values0": np.array([[3], [1], [4], [-1]], np.int32)}).numpy()
    given = {"user_values0": np.repeat(np.array([[4, 1, 3]], np.int32), 4000, axis=0)}
    distances = np.abs(tower(given, training=True).numpy()[:, np.newaxis] - possible).max(axis=2)
    shares = np.bincount(distances.argmin(axis=1), minlength=4) / 4000
    assert distances.min(axis=1).max() < 1e-6
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.125, 0.125], atol=0.03)
