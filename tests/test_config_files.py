"""Configuration files, resolved configurations and run directories: what is read, what is refused, and fingerprints."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_config import experiment
from twotower_tf import config as configuration
from twotower_tf.config import DataConfig, RandomSplit, TrainConfig
from twotower_tf.errors import ArtifactError, ConfigError

# --- files --------------------------------------------------------------------------------------------------------

GOOD = """
from twotower_tf.config import DataConfig, ExperimentConfig, Hash
def get_config():
    return ExperimentConfig(
        name="file", data=DataConfig(), item_features=(Hash("item_id", buckets=10),),
        user_features=(Hash("user_id", buckets=10),))
"""
BAD_FILES = {
    "def get_confg(): pass": "defines no get_config()",
    "def get_config(): return 3": "get_config() must return an ExperimentConfig; got int",
    "def get_config(): return 1 / 0": "ZeroDivisionError: division by zero",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "def get_config(:": "SyntaxError: invalid syntax",
    GOOD.replace("buckets=10", "bucket=10", 1): "Hash: unknown field of Hash 'bucket'; did you mean 'buckets'?",
}


def test_loads_a_file_and_applies_overrides(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    config = configuration.load(path, ["train.epochs=2"])
    assert (config.name, config.train.epochs) == ("file", 2)


IMPOSSIBLE = GOOD.replace("DataConfig()", "DataConfig(timestamp='')")  # its TimeSplit needs times


def test_overrides_repair_a_file_that_is_impossible_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(IMPOSSIBLE)
    assert configuration.load(path, ["data.split=RandomSplit()"]).data.split == RandomSplit()
    resolved = json.loads(configuration.to_json(configuration.load(path, ["data.timestamp=timestamp"])))
    resolved["data"]["timestamp"] = ""
    path.with_suffix(".json").write_text(json.dumps(resolved))
    for file in (path, path.with_suffix(".json")):
        with pytest.raises(ConfigError) as alone:
            configuration.load(file)
        with pytest.raises(ConfigError) as unrepaired:
            configuration.load(file, ["train.epochs=2"])
        assert str(alone.value) == str(unrepaired.value)
        assert str(alone.value).startswith(f"{file}: data.timestamp: TimeSplit needs event times")
        assert configuration.load(file, ["data.timestamp=when"]).data == DataConfig(timestamp="when")
        with pytest.raises(ConfigError, match=r"^--set data.split=RandomSplit\(\) evaluation.ks=\(5,\): train.monitor"):
            configuration.load(file, ["data.split=RandomSplit()", "evaluation.ks=(5,)"])


@pytest.mark.parametrize("text", BAD_FILES)
def test_refuses_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        configuration.load(path)
    assert str(caught.value).startswith(f"{path}: {BAD_FILES[text]}")
    assert "\n" not in str(caught.value)


def test_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^--config: no such file: .*/none.py$"):
        configuration.load(tmp_path / "none.py")


def test_loads_a_resolved_configuration_too(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(experiment(seed=4)))
    assert configuration.load(path, ["train.epochs=2"]) == experiment(seed=4, train=TrainConfig(epochs=2))


def test_a_run_directory_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(configuration.to_json(experiment()))
    assert configuration.load_run(tmp_path) == experiment()


def test_refuses_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        configuration.load_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/config.json: no such file; {tmp_path} is not a twotower run directory, or its command did not "
        "finish"
    )


def document(**changes: Any) -> str:
    return json.dumps(json.loads(configuration.to_json(experiment())) | changes)


def test_refuses_another_version() -> None:
    with pytest.raises(ArtifactError) as caught:
        configuration.from_json(document(schema_version=3), "runs/a/config.json")
    assert str(caught.value) == (
        "runs/a/config.json: invalid schema_version 3 (expected 2, which this version of twotower_tf reads); "
        "write it again with this version"
    )


BAD_DOCUMENTS = {
    "{": "here: not JSON: Expecting property name enclosed in double quotes",
    '{"schema_version": 2}': "here: ExperimentConfig: missing field 'name'",
    document(train={"epoch": 3}): "here: ExperimentConfig.train: unknown field of TrainConfig 'epoch'; "
    "did you mean 'epochs'?",
    document(item_features=[{"type": "Hash", "column": "a", "buckets": -1}]): (
        "here: ExperimentConfig.item_features.0.Hash.buckets: invalid value -1 (expected a number greater than 1)"
    ),
    document(user_features=[{"type": "History", "of": "x"}]): (
        "user_features[0]: unknown item feature in of= 'x'; known: item_id, price"
    ),
}


@pytest.mark.parametrize("text", BAD_DOCUMENTS)
def test_refuses_a_document(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.from_json(text, "here")
    assert str(caught.value).startswith(BAD_DOCUMENTS[text])


def test_where_the_files_lie_is_not_part_of_the_fingerprint() -> None:
    moved = configuration.override(experiment(), ["data.root=/elsewhere"])
    changed = configuration.override(experiment(), ["seed=18"])
    assert configuration.fingerprint(moved) == configuration.fingerprint(experiment())
    assert configuration.fingerprint(changed) != configuration.fingerprint(experiment())


def test_a_fingerprint_of_some_fields_sees_only_these() -> None:
    longer = configuration.override(experiment(), ["train.epochs=99"])
    wider = configuration.override(experiment(), ["model.vector_dim=96"])
    same = [configuration.fingerprint(config, configuration.PREPARED) for config in (experiment(), longer, wider)]
    assert len(set(same)) == 1
    trained = [configuration.fingerprint(config, configuration.TRAINED) for config in (experiment(), longer, wider)]
    assert trained[0] == trained[1] != trained[2]
