"""The SavedModels of untrained towers: every kind of feature, no data needed."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.model.filled import fill_tables
from twotower_tf.config import (
    Bucketized,
    Cross,
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    Hour,
    ModelConfig,
    Numeric,
    Tags,
    Weekday,
)
from twotower_tf.export import signatures
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.features.tower_encoder import TowerEncoder
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.model import two_tower

VERSION = 20260102030405
STATISTICS = {"user": {"age": {"mean": 30.0, "std": 10.0}, "ctr": {"boundaries": [0.25, 0.5]}}, "item": {}}
CONFIG = ExperimentConfig(
    name="t",
    data=DataConfig(timestamp="ts"),
    item_features=(Hash("item_id", buckets=100), Tags("genre", buckets=20)),
    user_features=(
        Hash("city", buckets=97),
        Cross(("city", "device type"), buckets=89),
        Hour("ts"),
        Weekday("ts"),
        Bucketized("ctr", buckets=3),
        Numeric("age"),
        Tags("class", buckets=53, max_length=3),
        History(of="item_id", length=4),
    ),
    model=ModelConfig(embedding_dim=4, vector_dim=8, user_hidden=(8,), item_hidden=()),
)


@pytest.fixture(scope="module")
def model():
    tf.random.set_seed(1)
    return fill_tables(two_tower.build(CONFIG))


@pytest.fixture(scope="module")
def items():
    """Rows 10 to 29 are one vector: ties, more of them than the answers that are asked for."""
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    vectors[10:30] = vectors[10]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return ItemVectors([f"item-{row}" for row in range(50)], vectors)


@pytest.fixture(scope="module")
def path(model, items, tmp_path_factory):
    root = tmp_path_factory.mktemp("towers")
    for kind in ("user", "item"):
        signatures.save(
            root / kind,
            TowerEncoder(CONFIG, STATISTICS, kind),
            two_tower.tower(model, kind),
            two_tower.batch_names(CONFIG, kind),
            VERSION,
            signatures.Catalogue(items, 15) if kind == "user" else None,
        )
    return root


@pytest.fixture(scope="module")
def loaded(path):
    return {kind: tf.saved_model.load(str(path / kind)) for kind in ("user", "item")}


ROWS = [
    {
        "city": "Rome",
        "device type": 3,
        "ts": 1700000000,
        "ctr": 0.3,
        "age": 41,
        "class": "a|b",
        "history": ["i1", "i2"],
    },
    {"city": "Никогда", "device type": "3", "ts": 1700000000.0, "ctr": 0.3, "age": 41.0, "class": ["a", "b"]},
    {"city": None, "device type": "", "history": [], "class": ""},
    {},
    {"class": "a| b |c|d|e", "history": ["i0", "", "i1", "i2", "i3", "i4"]},
]
ARGUMENTS = {"device type": "device_type", "class": "arg_class"}


def user_arguments(rows):
    arrays = rows_to_arrays(TowerEncoder(CONFIG, STATISTICS, "user").inputs, rows)
    return {ARGUMENTS.get(name, name): tf.constant(value) for name, value in arrays.items()}


def vectors_of(model, kind, rows):
    """The training path: encode, then the Keras sub-model."""
    side = TowerEncoder(CONFIG, STATISTICS, kind)
    raw = {name: tf.constant(value) for name, value in rows_to_arrays(side.inputs, rows).items()}
    names = two_tower.batch_names(CONFIG, kind)
    tower = two_tower.tower(model, kind)
    return tower({names[key]: value for key, value in side.encode(raw).items()}, training=False).numpy()


def example(row):
    lists = {
        str: lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=[each.encode() for each in values])),
        int: lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values)),
        float: lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values)),
    }
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        features[name] = lists[type(values[0])](values) if values else tf.train.Feature()
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_default_signature_gives_the_training_paths_vectors(model, loaded):
    answer = loaded["user"].signatures["serving_default"](**user_arguments(ROWS))
    np.testing.assert_allclose(answer["user_vector"], vectors_of(model, "user", ROWS), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(answer["user_vector"], axis=1), 1, atol=1e-6)
    assert answer["model_version"].numpy().tolist() == [VERSION] * len(ROWS)
    assert answer["model_version"].dtype == tf.int64


def test_encoded_values_give_the_same_vectors_to_the_last_bit(loaded):
    """What batch scoring sends: buckets and numbers, computed outside the graph, by position where names are many."""
    raw = {
        name: tf.constant(value)
        for name, value in rows_to_arrays(TowerEncoder(CONFIG, STATISTICS, "user").inputs, ROWS).items()
    }
    encoded = TowerEncoder(CONFIG, STATISTICS, "user").encode(raw)
    keys = {"ids", "numeric", "values0", "values1"}
    signature = loaded["user"].signatures["from_encoded"]
    assert set(signature.structured_input_signature[1]) == set(encoded) == keys
    answer = signature(**encoded)
    wanted = loaded["user"].signatures["serving_default"](**user_arguments(ROWS[:2]))["user_vector"]
    again = signature(**{key: value[:2] for key, value in encoded.items()})["user_vector"]
    np.testing.assert_array_equal(again, wanted)
    assert answer["model_version"].numpy().tolist() == [VERSION] * len(ROWS)


def test_examples_give_the_same_vectors_whatever_lists_they_use(model, loaded):
    serialized = tf.constant([example(row) for row in ROWS])
    answer = loaded["user"].signatures["from_examples"](examples=serialized)
    np.testing.assert_allclose(answer["user_vector"], vectors_of(model, "user", ROWS), atol=1e-6)
    assert answer["model_version"].numpy().tolist() == [VERSION] * len(ROWS)


def test_item_tower(model, loaded):
    rows = [{"item_id": 7, "genre": "x|y"}, {"item_id": "7"}, {"genre": None}]
    answer = loaded["item"].signatures["serving_default"](
        item_id=tf.constant(["7", "7", ""]), genre=tf.constant([["x", "y"], ["", ""], ["", ""]])
    )
    np.testing.assert_allclose(answer["ad_vector"], vectors_of(model, "item", rows), atol=1e-6)
    assert set(answer) == {"ad_vector", "model_version"}
    assert set(loaded["item"].signatures) == {"serving_default", "from_examples"}


def test_long_and_gappy_lists_mean_what_the_client_makes_of_them(loaded):
    """A caller of the signature may pad, leave gaps, or send more than the model reads."""
    tower = loaded["user"].signatures["serving_default"]
    short, long = user_arguments([ROWS[4]]), user_arguments([ROWS[4]])
    long["history"] = tf.constant([["older", "i0", "", "i1", "i2", "i3", "", "i4", ""]])
    long["arg_class"] = tf.constant([["", "a", " b", "c|d", "e"]])
    assert short["history"].shape == [1, 4] and short["arg_class"].shape == [1, 3]
    np.testing.assert_array_equal(tower(**short)["user_vector"], tower(**long)["user_vector"])
    long["history"] = tf.zeros([1, 0], tf.string)
    empty = {**short, "history": tf.constant([[""]])}
    np.testing.assert_array_equal(tower(**long)["user_vector"], tower(**empty)["user_vector"])


@pytest.mark.parametrize("k", [15, 50])
def test_recommend_ranks_as_exact_search_with_ties(k, items):
    queries = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    queries[0] = items.vectors[10]
    rows, scores = signatures.nearest(tf.constant(queries), tf.constant(items.vectors), k)
    expected = ExactSearcher(items).search(queries, k)
    np.testing.assert_array_equal(rows, expected.rows)
    np.testing.assert_array_equal(scores, expected.scores)
    assert rows[0, :15].numpy().tolist() == list(range(10, 25))


def test_recommend_answers_for_the_user_vector(loaded, items):
    arguments = user_arguments(ROWS)
    vectors = loaded["user"].signatures["serving_default"](**arguments)["user_vector"].numpy()
    answer = loaded["user"].signatures["recommend"](**arguments)
    by_hand = vectors.astype(np.float64) @ items.vectors.T.astype(np.float64)
    for row, ids in enumerate(answer["item_ids"].numpy()):
        order = np.lexsort((np.arange(50), -by_hand[row].astype(np.float32)))[:15]
        assert [text.decode() for text in ids] == [f"item-{each}" for each in order]
        np.testing.assert_allclose(answer["scores"][row], by_hand[row][order], atol=1e-7)
    assert answer["model_version"].numpy().tolist() == [VERSION] * len(ROWS)
    assert set(answer) == {"item_ids", "scores", "model_version"}


@pytest.mark.parametrize("name", ["serving_default", "recommend"])
def test_a_batch_without_rows(loaded, name):
    arguments = {key: value[:0] for key, value in user_arguments(ROWS).items()}
    answer = loaded["user"].signatures[name](**arguments)
    assert {value.shape[0] for value in answer.values()} == {0}


def test_examples_without_rows(loaded):
    answer = loaded["user"].signatures["from_examples"](examples=tf.zeros([0], tf.string))
    assert answer["user_vector"].shape == [0, 8]


def definition(path):
    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]


def test_signatures_as_documented(path):
    """One tensor per source column, under the column's own name; the batch is dimension 0 of every tensor."""

    def described(tensors):
        return {
            name: (tf.dtypes.as_dtype(each.dtype).name, [dim.size for dim in each.tensor_shape.dim])
            for name, each in tensors.items()
        }

    graph = definition(path / "user")
    inputs = {
        "city": ("string", [-1]),
        "device type": ("string", [-1]),
        "ts": ("int64", [-1]),
        "ctr": ("float32", [-1]),
        "age": ("float32", [-1]),
        "class": ("string", [-1, -1]),
        "history": ("string", [-1, -1]),
    }
    version = ("int64", [-1])
    default, examples, recommend = (
        graph.signature_def[name] for name in ("serving_default", "from_examples", "recommend")
    )
    assert described(default.inputs) == inputs
    assert described(default.outputs) == {"user_vector": ("float32", [-1, 8]), "model_version": version}
    assert described(examples.inputs) == {"examples": ("string", [-1])}
    assert described(examples.outputs) == {"user_vector": ("float32", [-1, 8]), "model_version": version}
    assert described(recommend.inputs) == inputs
    assert described(recommend.outputs) == {
        "item_ids": ("string", [-1, 15]),
        "scores": ("float32", [-1, 15]),
        "model_version": version,
    }
    assert {signature.method_name for signature in graph.signature_def.values()} >= {"tensorflow/serving/predict"}


def test_no_custom_operation_and_no_python_in_the_graph(path):
    registered = set(tf.raw_ops.__dict__)
    for kind in ("user", "item"):
        graph = definition(path / kind).graph_def
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        functions = {function.signature.name for function in graph.library.function}
        kinds = {node.op for node in nodes} - functions
        assert len(kinds) > 20
        assert kinds <= registered, kinds - registered
        assert not {each for each in kinds if "PyFunc" in each or "CustomOp" in each or "Xla" in each}


def test_holds_the_towers_weights_and_nothing_of_the_other_or_of_training(path, model):
    def stored(kind):
        reader = tf.train.load_checkpoint(str(path / kind / "variables" / "variables"))
        return {
            name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): reader.get_tensor(name)
            for name in reader.get_variable_to_shape_map()
            if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
        }

    for kind, others in (("user", {"item_ids", "item_vectors"}), ("item", set())):
        weights = {
            f"weights/{each.name[:-2].replace('/', '-')}": each for each in two_tower.tower(model, kind).variables
        }
        found = stored(kind)
        assert set(found) == set(weights) | others
        for name, variable in weights.items():
            np.testing.assert_array_equal(found[name], variable.numpy())
    assert stored("user")["item_ids"].tolist() == [f"item-{row}".encode() for row in range(50)]


class Unchecked:
    """Feeds a signature as TensorFlow Serving does: no shape of a feed is compared with the signature's."""

    def __init__(self, path):
        graph = definition(path)
        self.signature = graph.signature_def["serving_default"]
        for node in graph.graph_def.node:
            if node.op == "Placeholder":
                node.attr["shape"].shape.Clear()
                node.attr["shape"].shape.unknown_rank = True
                del node.attr["_output_shapes"]
        self.graph = tf.Graph()
        with self.graph.as_default():
            saver = tf.compat.v1.train.import_meta_graph(graph)
            self.session = tf.compat.v1.Session(graph=self.graph)
            saver.restore(self.session, str(path / "variables" / "variables"))

    def __call__(self, arrays):
        feeds = {self.signature.inputs[name].name: value for name, value in arrays.items()}
        return self.session.run(self.signature.outputs["user_vector"].name, feeds)


@pytest.fixture(scope="module")
def unchecked(path):
    return Unchecked(path / "user")


def test_feeding_like_a_server_answers_well_formed_requests(unchecked, model):
    arrays = rows_to_arrays(TowerEncoder(CONFIG, STATISTICS, "user").inputs, ROWS)
    np.testing.assert_allclose(unchecked(arrays), vectors_of(model, "user", ROWS), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("city", np.array([["Rome", "Oslo"]], object), r"Shape of tensor \S*city\S* \[1,2\] is not compatible"),
        ("age", np.float32(3), r"Shape of tensor \S*age\S* \[\] is not compatible with expected shape \[\?\]"),
        ("history", np.array(["i1", "i2"], object), r"Shape of tensor \S*history\S* \[2\] is not compatible"),
        ("age", np.float32([3, 4, 5]), r"all inputs of a request\); got\] \[city\] \[2\].*\[age\] \[3\]"),
        ("history", np.array([["i1"]] * 3, object), r"all inputs of a request\); got\].*\[history\] \[3\]"),
    ],
)
def test_shapes_that_a_server_does_not_check_are_invalid_arguments(unchecked, name, value, message):
    arrays = rows_to_arrays(TowerEncoder(CONFIG, STATISTICS, "user").inputs, ROWS[:2])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        unchecked({**arrays, name: value})
