"""Buckets are TensorFlow's own, and "no value" is one thing."""

import random

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    Numeric,
    Tags,
    Weekday,
)
from twotower_tf.export import tf_examples
from twotower_tf.features.tower_encoder import TowerEncoder

STATISTICS = {
    "user": {
        "age": {"mean": 30.0, "std": 10.0},
        "income": {"mean": 2.0, "std": 0.5},
        "ctr": {"boundaries": [0.25, 0.5, 0.75]},
    },
    "item": {},
}


@pytest.fixture(scope="module")
def side():
    config = ExperimentConfig(
        name="t",
        data=DataConfig(timestamp="ts"),
        item_features=(Hash("item_id", buckets=1000),),
        user_features=(
            Hash("city", buckets=97),
            Cross(("city", "device"), buckets=89),
            Hour("ts"),
            Weekday("ts"),
            Bucketized("ctr", buckets=4),
            Numeric("age"),
            Numeric("income", transform="log1p"),
            Tags("interests", buckets=53),
            History(of="item_id"),
        ),
    )
    return TowerEncoder(config, STATISTICS, "user")


def random_texts(count):
    rng = random.Random(7)
    alphabets = ["abcXYZ0189_-", "äöüßéñ", "日本語中文한국어", "🦉🎯\u200d", " \t/\\'\"", "\x01\x7f"]
    texts = ["", "0", "3", "3.0", "-1", "None", "nan", " ", "NULL"]
    while len(texts) < count:
        letters = rng.choice(alphabets) + rng.choice(alphabets)
        texts.append("".join(rng.choice(letters) for _ in range(rng.randint(1, 90))))
    return texts


def raw(side, **values):
    """Raw tensors of one batch; absent inputs have no value."""
    batch = len(next(iter(values.values())))
    none = {"text": b"", "texts": [b""], "number": float("nan"), "time": 0}
    filled = {each.name: values.get(each.name, [none[each.kind]] * batch) for each in side.inputs}
    return {name: tf.constant(value, side.signature()[name].dtype) for name, value in filled.items()}


def textbook_bucket(column, features, buckets):
    """The bucket that a user of TensorFlow's own `DenseFeatures` gets: the hot place of an indicator column, or -1."""
    layer = keras.layers.DenseFeatures([tf.feature_column.indicator_column(column)])
    hot = layer(features).numpy()
    assert hot.shape[1] == buckets
    return np.where(hot.any(axis=1), hot.argmax(axis=1), -1)


def test_hash_bucket_is_the_columns_own_on_thousands_of_texts(side):
    texts = random_texts(5000)
    got = side.encode(raw(side, city=texts))["ids"][:, 0].numpy()
    column = tf.feature_column.categorical_column_with_hash_bucket("city", 97)
    expected = textbook_bucket(column, {"city": tf.constant(texts)[:, tf.newaxis]}, 97)
    np.testing.assert_array_equal(got, expected)
    assert got[0] == -1 and (got[1:] >= 0).all()


def test_hash_bucket_is_farmhash_fingerprint64():
    # The first is FarmHash's documented value for the empty text; the others were taken from TensorFlow 2.20, so that
    # a later TensorFlow that hashes otherwise is noticed.
    big = 2**31 - 1
    assert tf.strings.to_hash_bucket_fast("", 2**62).numpy() == 0x9AE16A3B2F90404F % 2**62
    assert tf.strings.to_hash_bucket_fast(["a", "u000123", "日本"], big).numpy().tolist() == [
        493484721,
        580929540,
        1328783519,
    ]


def test_cross_is_the_columns_own_and_absent_where_a_part_is(side):
    cities, devices = random_texts(2000), random_texts(2000)[::-1]
    got = side.encode(raw(side, city=cities, device=devices))["ids"][:, 1].numpy()
    column = tf.feature_column.crossed_column(["city", "device"], 89)
    features = {"city": tf.constant(cities)[:, tf.newaxis], "device": tf.constant(devices)[:, tf.newaxis]}
    expected = textbook_bucket(column, features, 89)
    whole = np.array([bool(a and b) for a, b in zip(cities, devices, strict=True)])
    np.testing.assert_array_equal(got[whole], expected[whole])
    assert (got[~whole] == -1).all() and (~whole).sum() == 2


def test_bucketized_cuts_at_its_boundaries(side):
    values = [-5.0, 0.0, 0.2499, 0.25, 0.5, 0.74, 0.75, 1e30, float("nan"), float("inf")]
    got = side.encode(raw(side, ctr=values))["ids"][:, 4].numpy()
    assert got.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, -1, -1]


def test_hour_and_weekday_are_utc(side):
    # 2026-11-21 23:30 UTC was a Saturday; 1970-01-01 01:00 a Thursday; 1969-12-31 23:00 a Wednesday.
    got = side.encode(raw(side, ts=[1795303800, 3600, -3600, 0]))["ids"].numpy()
    assert got[:, 2].tolist() == [23, 1, 23, -1]
    assert got[:, 3].tolist() == [5, 3, 2, -1]


def test_numbers_are_standardized_and_missing_ones_are_zero(side):
    got = side.encode(raw(side, age=[40.0, 30.0, float("nan")], income=[0.0, np.e**2 - 1, -(np.e**3 - 1)]))["numeric"]
    np.testing.assert_allclose(got.numpy(), [[1.0, -4.0], [0.0, 0.0], [0.0, -10.0]], atol=1e-6)


def test_tags_and_histories_keep_their_places(side):
    got = side.encode(raw(side, interests=[["a", "b"], ["c", ""], ["", ""]], history=[["i1"], [""], ["i2"]]))
    one = lambda text, buckets: int(tf.strings.to_hash_bucket_fast(text, buckets))  # noqa: E731
    assert got["values0"].numpy().tolist() == [[one("a", 53), one("b", 53)], [one("c", 53), -1], [-1, -1]]
    assert got["values1"].numpy().tolist() == [[one("i1", 1000)], [-1], [one("i2", 1000)]]


def test_an_empty_batch_is_encoded(side):
    empty = {name: value[:0] for name, value in raw(side, city=["a"]).items()}
    got = tf.function(side.encode, input_signature=[side.signature()])(empty)
    assert got["ids"].shape == (0, 5) and got["numeric"].shape == (0, 2)


def test_examples_are_encoded_as_the_inputs_they_hold(side):
    def bytes_list(*values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    full = tf.train.Example(
        features=tf.train.Features(
            feature={
                "city": bytes_list("Köln".encode()),
                "device": bytes_list(b"phone"),
                "interests": bytes_list(b"a", b"b"),
                "ctr": tf.train.Feature(float_list=tf.train.FloatList(value=[0.3])),
                "ts": tf.train.Feature(int64_list=tf.train.Int64List(value=[7200])),
            }
        )
    )
    serialized = tf.constant([full.SerializeToString(), tf.train.Example().SerializeToString()])
    decoded = side.encode(tf_examples.decode(side.inputs, serialized))
    direct = side.encode(
        raw(
            side,
            city=["Köln", ""],
            device=["phone", ""],
            interests=[["a", "b"], ["", ""]],
            ctr=[0.3, float("nan")],
            ts=[7200, 0],
        )
    )
    for name in ("ids", "numeric"):
        np.testing.assert_array_equal(decoded[name].numpy(), direct[name].numpy())
    # of several values as many columns as the longest list of a batch needs, or more
    np.testing.assert_array_equal(decoded["values0"].numpy()[:, :2], direct["values0"].numpy())
    assert (decoded["values0"].numpy()[:, 2:] == -1).all()
    assert (decoded["values1"].numpy() == -1).all()
