import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.config.features import Input
from twotower_tf.export import tf_examples
from twotower_tf.tables.values import as_text

TEXT, TAGS = Input("t", "text"), Input("tags", "texts", "|", 3)
NUMBER, TIME = Input("n", "number"), Input("when", "time")


def feature(values):
    if not values:
        return tf.train.Feature()
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], float | np.floating):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def example(**features):
    message = tf.train.Example(features=tf.train.Features(feature={k: feature(v) for k, v in features.items()}))
    return message.SerializeToString()


def decode(inputs, *serialized):
    """Traced, as it is in a SavedModel."""
    function = tf.function(lambda batch: tf_examples.decode(inputs, batch), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([None], tf.string))
    return {name: value.numpy() for name, value in concrete(tf.constant(list(serialized), tf.string)).items()}


def test_each_kind_of_list_for_each_kind_of_input():
    got = decode(
        [TEXT, TAGS, NUMBER, TIME],
        example(t=[b"a"], tags=[b"x", b"y"], n=[1.5], when=[1000]),
        example(t=[3], tags=[1, 2, 3], n=[7], when=[2000.0], unrelated=[1]),
        example(t=[3.0], tags=[0.5], n=[b"2.25"], when=[b"3000"]),
        example(t=[-4], tags=[], n=[], when=[]),
        example(t=[b""], tags=[b""], n=[b""], when=[b""]),
        example(),
        b"",
    )
    assert got["t"].tolist() == [b"a", b"3", b"3", b"-4", b"", b"", b""]
    assert [[tag for tag in row if tag] for row in got["tags"].tolist()] == [
        [b"x", b"y"],
        [b"1", b"2", b"3"],
        [b"0.5"],
        [],
        [],
        [],
        [],
    ]
    np.testing.assert_array_equal(got["n"], np.array([1.5, 7, 2.25] + [np.nan] * 4, np.float32))
    assert got["when"].tolist() == [1000, 2000, 3000, 0, 0, 0, 0]


def test_same_as_parse_example_where_types_are_as_declared():
    rng = np.random.default_rng(0)
    serialized = [
        example(
            t=[bytes(rng.integers(0, 256, rng.integers(0, 6), np.uint8))],
            n=[float(rng.normal())],
            when=[int(rng.integers(-(2**62), 2**62))],
            **{f"noise{position}": [int(position)] for position in range(rng.integers(0, 5))},
        )
        for _ in range(300)
    ]
    spec = {
        "t": tf.io.FixedLenFeature([], tf.string),
        "n": tf.io.FixedLenFeature([], tf.float32),
        "when": tf.io.FixedLenFeature([], tf.int64),
    }
    expected = tf.io.parse_example(tf.constant(serialized), spec)
    got = decode([TEXT, NUMBER, TIME], *serialized)
    for name in spec:
        np.testing.assert_array_equal(got[name], expected[name].numpy())


def test_floats_become_the_text_that_python_gives_them():
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate(
        [bits.view(np.float32), np.float32([0.1, 1e-5, 1e-4, 123456.7, 1e6, 16777216, 3, -0.0, 1e20, 0.30000001])]
    )
    values = values[~np.isinf(values) & ((np.abs(values) > 1e-37) | (values == 0))]
    got = decode([TEXT], *[example(t=[value]) for value in values])["t"]
    assert [text.decode() for text in got] == [as_text(value) for value in values]


def test_later_entry_of_a_name_wins_as_in_any_protobuf_map():
    entry = example(t=[b"first"]), example(t=[b"last"])
    assert decode([TEXT], entry[0] + entry[1])["t"].tolist() == [b"last"]


def test_no_examples():
    got = decode([TEXT, TAGS, NUMBER, TIME])
    assert {name: value.shape[0] for name, value in got.items()} == {"t": 0, "tags": 0, "n": 0, "when": 0}


def test_only_examples_without_features():
    assert decode([TEXT, NUMBER], b"", b"")["t"].tolist() == [b"", b""]


@pytest.mark.parametrize(
    ("inputs", "serialized", "message"),
    [
        ([TEXT], b"garbage", "Could not parse example input, value: 'garbage'"),
        (
            [TEXT],
            example(t=[b"a", b"b"]),
            "feature t: invalid number of values .expected at most one per example.; got. .0 2 0.",
        ),
        (
            [NUMBER],
            example(n=[1, 2]),
            "feature n: invalid number of values .expected at most one per example.; got. .0 2 0.",
        ),
        ([NUMBER], example(n=[b"seven"]), "could not correctly convert string: seven"),
        ([TIME], example(when=[b"noon"]), "could not correctly convert string: noon"),
    ],
)
def test_refusals_are_invalid_arguments(inputs, serialized, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decode(inputs, example(), serialized)
