"""A warm start brings the weights of the earlier model, from its run or from its bundle, and no others."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from twotower_tf.artifacts import RunPaths
from twotower_tf.config import Hash, TrainConfig
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.model import two_tower
from twotower_tf.train import training_loop, warm_start_weights
from twotower_tf.train.checkpoints import Checkpoints, load_model


def towers(model):
    return {
        weight.name: weight.numpy()
        for side in ("user", "item")
        for weight in two_tower.tower(model, side).trainable_weights
    }


@pytest.fixture(scope="module")
def expected(trained):
    run_dir, config = trained
    return towers(load_model(config, run_dir))


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_the_first_step_begins_with_the_earlier_weights(kind, trained, export_dir, expected):
    run_dir, config = trained
    model = two_tower.build(dataclasses.replace(config, seed=99))
    before = towers(model)
    warm_start_weights.start(config, model, run_dir if kind == "run" else export_dir / "7")
    after = towers(model)
    assert before.keys() == after.keys() == expected.keys() and len(expected) > 8
    for name, value in after.items():
        np.testing.assert_array_equal(value, expected[name])
    assert any(np.abs(before[name] - value).max() > 0.01 for name, value in after.items())


def test_a_training_goes_on_from_there_also_when_resumed(trained, tmp_path):
    run_dir, config = trained
    shutil.copytree(run_dir / "prepared", tmp_path / "prepared")
    cold = RunPaths(run_dir).train
    config = dataclasses.replace(config, train=TrainConfig(batch_size=256, epochs=1, monitor=""))

    class Stop(Exception):
        pass

    def stop(stage, done, total):
        raise Stop

    with pytest.raises(Stop):
        training_loop.train(config, tmp_path, warm_start=run_dir, progress=stop)
    document = training_loop.train(config, tmp_path, resume=True)
    assert document["history"][0]["loss"] < json.loads(cold.read_text())["history"][0]["loss"] - 0.05


def test_another_model_is_refused_before_anything_is_forgotten(trained, tmp_path):
    run_dir, config = trained
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, vector_dim=16))
    with pytest.raises(ConfigError) as error:
        warm_start_weights.start(wider, two_tower.build(wider), run_dir)
    assert str(error.value) == (
        f"--warm_start: {run_dir} has another model: model.vector_dim is 8 there and 16 here; train without it"
    )
    features = (Hash("item_id", buckets=600), *config.item_features[1:])
    other = dataclasses.replace(config, item_features=features)
    with pytest.raises(ConfigError) as error:
        warm_start_weights.start(other, two_tower.build(other), run_dir)
    assert "has other item_features: Hash(column='item_id', buckets=500" in str(error.value)
    assert "there, Hash(column='item_id', buckets=600" in str(error.value)
    with pytest.raises(ArtifactError) as error:
        warm_start_weights.start(config, two_tower.build(config), tmp_path)
    assert str(error.value) == (
        f"--warm_start: invalid directory '{tmp_path}' (expected a trained run directory or a bundle)"
    )
    assert Checkpoints(config, run_dir).best_weights().is_file()


def test_a_damaged_bundle_is_told(trained, export_dir, tmp_path):
    _, config = trained
    shutil.copytree(export_dir / "7", tmp_path / "7")
    (tmp_path / "7" / "variables" / "variables.index").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="variables.*: damaged"):
        warm_start_weights.start(config, two_tower.build(config), tmp_path / "7")
