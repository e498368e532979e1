"""A feature type from outside the package goes the whole way, from a configuration file to recommendations."""

import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf import artifacts, interpreter
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.config import (
    DataConfig,
    ExperimentConfig,
    Hash,
    InBatch,
    InBatchSoftmax,
    IndexConfig,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
    base,
    features,
)
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.errors import ConfigError
from twotower_tf.export.export_bundle import export
from twotower_tf.features import column_audit, encode_rows, types
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.retrieval.recommender import Recommender
from twotower_tf.score.user_tower import UserTower
from twotower_tf.train import training_loop

pytestmark = pytest.mark.tensorflow
MODULE = "tests.features.own_types"


@pytest.fixture(scope="module")
def own():
    """The module with the types; they are forgotten after these tests."""
    known = {*base.CLASSES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_TYPES", [*features._TYPES])
        patch.setattr(types, "_ENCODERS", {**types._ENCODERS})
        patch.setenv("TWOTOWER_EXTENSIONS", MODULE)
        yield importlib.import_module(MODULE)
    for name in {*base.CLASSES} - known:
        del base.CLASSES[name]
    for name in (MODULE, "tests.features.own_encoders"):
        sys.modules.pop(name, None)


def experiment(own, root):
    return ExperimentConfig(
        name="own",
        data=DataConfig(root=str(root), events="events", items="items.csv", users="users.csv", label="click"),
        item_features=(
            Hash("item_id", buckets=300),
            own.Prefix("category", buckets=40, length=2),
            own.Capped("price", cap=8.0),
        ),
        user_features=(
            own.Prefix("country", buckets=60, length=1),
            own.Prefix("device_type", buckets=60, length=1, shared_with="country"),
            own.Capped("age", cap=50.0, embedding_dim=2),
        ),
        model=ModelConfig(embedding_dim=4, vector_dim=8, item_hidden=(8,), user_hidden=(8,)),
        sampling=SamplingConfig(negatives=(InBatch(),)),
        loss=InBatchSoftmax(),
        train=TrainConfig(batch_size=256, epochs=1, monitor=""),
        index=IndexConfig(k=5),
    )


@pytest.fixture(scope="module")
def run(own, tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    write_synthetic_log(root / "data", events=1500, users=100, items=60, days=5, seed=3)
    config = experiment(own, root / "data")
    artifacts.write_text(RunPaths(root / "run").config, configuration.to_json(config))
    prepare_log(config, root / "run", threads=1)
    encode_rows.encode(config, Prepared.open(root / "run"))
    training_loop.train(config, root / "run")
    export(config, root / "run", root / "export", version=3)
    return root, config


def test_a_configuration_file_json_and_an_override_may_name_it(own, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        f"from {MODULE} import Prefix\n"
        "from twotower_tf.config import DataConfig, ExperimentConfig, Hash\n"
        "def get_config():\n"
        "    return ExperimentConfig(name='t', data=DataConfig(), item_features=(Hash('i', 5),),\n"
        "        user_features=(Prefix('city', 9, 2),))\n"
    )
    config = configuration.load(path, ["user_features.0.length=4"])
    assert config.user_features == (own.Prefix("city", buckets=9, length=4),)
    assert configuration.from_json(configuration.to_json(config), "text") == config
    given = configuration.override(config, ["item_features=(Prefix('i', buckets=7, name='start'), Capped('p', 2.0))"])
    assert given.item_features == (own.Prefix("i", buckets=7, length=3, name="start"), own.Capped("p", cap=2.0))
    with pytest.raises(ConfigError, match=r"user_features.0.length: invalid value '0'"):
        configuration.override(config, ["user_features.0.length=0"])


def test_values_are_encoded_as_the_type_says(own, run):
    root, config = run
    prepared = Prepared.open(root / "run")
    encoded = EncodedData(config, prepared)
    items = prepared.items(["category", "price"]).to_pylist()
    got = encoded.item_batch(np.arange(len(items)))
    for row, item in enumerate(items):
        start = (item["category"] or "").encode()[:2]
        assert got["ids"][row, 1] == (int(tf.strings.to_hash_bucket_fast(start, 40)) if start else -1)
        price = item["price"]
        assert got["numeric"][row, 0] == pytest.approx(0.0 if price is None else min(price, 8.0) / 8.0)
    assert len({item["category"] for item in items}) > 1 and len({*got["numeric"][:, 0]}) > 1


def test_the_audit_counts_its_buckets(own, run):
    root, config = run
    found = column_audit.audit(config, Prepared.open(root / "run"))
    countries = found["user"]["country"]
    assert countries["features"]["country"]["type"] == "Prefix"
    first = {int(tf.strings.to_hash_bucket_fast(each["value"][:1], 60)) for each in countries["most_frequent"]}
    assert countries["values"]["distinct"] <= 10  # so that all of them are listed
    assert countries["features"]["country"]["buckets_used"] == len(first)
    assert found["item"]["price"]["features"] == {}


def test_users_with_one_prefix_get_one_answer(own, run):
    root, _ = run
    bundle = Bundle.open(root / "export")
    people = [
        {"country": "Xa", "device_type": "phone", "age": 70.0},
        {"country": "Xbc", "device_type": "p", "age": 50.0},
        {"country": "Ya", "device_type": "phone", "age": 20.0},
    ]
    answers = Recommender(bundle).recommend(people, 5)
    first, second, third = ((each["item_ids"], each["scores"]) for each in answers)
    assert first == second and first != third and len(first[0]) == 5
    UserTower(bundle)  # compares values encoded in bulk with the tower's own signature


def test_a_kind_of_input_that_does_not_exist_is_named(own):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own.Prefix, "kind", "cell")
        expected = (
            r"user_features\[0\]: Prefix: invalid kind of input 'cell' "
            r"\(expected text, texts, number, time, times\); correct"
        )
        with pytest.raises(ConfigError, match=expected):
            ExperimentConfig(
                name="t", data=DataConfig(), item_features=(Hash("i", 5),), user_features=(own.Prefix("u", 5),)
            )


def test_a_type_without_an_encoder_is_named(own):
    config = ExperimentConfig(
        name="t", data=DataConfig(), item_features=(Hash("i", 5),), user_features=(own.Prefix("u", 5),)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(types._ENCODERS, own.Prefix, raising=False)
        patch.setattr(own.Prefix, "encoder_module", "")
        with pytest.raises(ConfigError, match="Prefix: no encoder of this feature type is registered; name the module"):
            types.build_encoder(config.user_features[0], {}, config)


def test_a_name_is_registered_once(own):
    with pytest.raises(ValueError, match="invalid name 'Hash' .already registered.; choose another name"):
        features.feature_type(type("Hash", (features.ColumnFeature,), {"__annotations__": {}}))
    with pytest.raises(ValueError, match="Prefix is already encoded by another class"):
        types.encodes(own.Prefix)(type("Other", (types.FeatureEncoder,), {}))


def test_a_side_takes_the_types_of_that_side_alone(own):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own.Prefix, "sides", ("user",))
        with pytest.raises(ConfigError, match="item_features.0: invalid class Prefix .expected one of 'Hash'"):
            ExperimentConfig(
                name="t", data=DataConfig(), item_features=(own.Prefix("i", 5),), user_features=(Hash("u", 5),)
            )


def test_another_process_reads_it_from_json(own, tmp_path):
    config = ExperimentConfig(
        name="t", data=DataConfig(), item_features=(Hash("i", 5),), user_features=(own.Prefix("u", 5),)
    )
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(config))
    code = (
        "import sys; from twotower_tf import config; "
        f"print(config.load({str(path)!r}).user_features[0].length, 'tensorflow' in sys.modules)"
    )
    command = interpreter.build_command(code)
    done = subprocess.run(command, env=interpreter.build_environment({}), capture_output=True, text=True)
    assert done.stdout == "3 False\n", done.stderr
    wrong = interpreter.build_environment({"TWOTOWER_EXTENSIONS": "tests.features.no_such"})
    done = subprocess.run(command, env=wrong, capture_output=True, text=True)
    assert "ConfigError: TWOTOWER_EXTENSIONS: invalid module 'tests.features.no_such' (ModuleNot" in done.stderr


def test_fields_of_one_feature_are_kept_by_a_copy(own):
    feature = own.Prefix("city", buckets=9, name="start", embedding_dim=3)
    assert dataclasses.replace(feature, length=5) == own.Prefix("city", 9, 5, 3, "", "start")
