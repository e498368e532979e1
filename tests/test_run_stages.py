"""Which configuration a run directory has, what a new one makes stale, and what is finished."""

import json
import shutil
from pathlib import Path

import pytest

from twotower_tf import config as configuration
from twotower_tf import final_fit, run_stages
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, ModelConfig
from twotower_tf.errors import ArtifactError, ConfigError

CONFIG = ExperimentConfig(
    name="small",
    data=DataConfig(),
    item_features=(Hash("item_id", buckets=100),),
    user_features=(Hash("user_id", buckets=100),),
    model=ModelConfig(vector_dim=32),
)


def changed(*overrides: str) -> ExperimentConfig:
    return configuration.override(CONFIG, overrides)


def trained(run_dir: Path) -> RunPaths:
    """A run directory that looks as after `evaluate`."""
    run_stages.adopt_config(run_dir, CONFIG, overwrite=False)
    paths = RunPaths(run_dir)
    for directory in (paths.checkpoints, paths.logs, paths.prepared):
        (directory / "part").mkdir(parents=True)
    for file in (paths.train, paths.metrics, paths.item_map, paths.report):
        file.write_text("{}")
    return paths


# --- the configuration of a run -----------------------------------------------------------------------------------


def test_a_new_directory_takes_the_configuration(tmp_path: Path) -> None:
    run_stages.adopt_config(tmp_path / "deep" / "run", CONFIG, overwrite=False)
    assert configuration.load_run(tmp_path / "deep" / "run") == CONFIG


def test_without_a_model_the_configuration_is_replaced(tmp_path: Path) -> None:
    run_stages.adopt_config(tmp_path / "run", CONFIG, overwrite=False)
    run_stages.adopt_config(tmp_path / "run", changed("seed=3"), overwrite=False)
    assert configuration.load_run(tmp_path / "run").seed == 3


def test_a_model_of_another_configuration_is_not_lost(tmp_path: Path) -> None:
    paths = trained(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        run_stages.adopt_config(paths.root, changed("model.vector_dim=64", "train.epochs=1"), overwrite=False)
    assert str(caught.value) == (
        f"{paths.root} holds a model trained with another configuration (model.vector_dim was 32, now 64, and 1 more); "
        "choose another --run_dir, or --overwrite to replace it"
    )
    assert configuration.load_run(paths.root) == CONFIG
    assert paths.checkpoints.exists() and paths.metrics.exists()


def test_overwrite_removes_all_of_the_old_model(tmp_path: Path) -> None:
    paths = trained(tmp_path / "run")
    run_stages.adopt_config(paths.root, changed("model.vector_dim=64"), overwrite=True)
    assert configuration.load_run(paths.root).model.vector_dim == 64
    assert sorted(path.name for path in paths.root.iterdir()) == ["config.json", "prepared"]


def test_what_does_not_touch_the_model_is_taken(tmp_path: Path) -> None:
    paths = trained(tmp_path / "run")
    new = changed("index.k=7", "name=other", "data.root=/elsewhere", "evaluation.ks=(20, 30)")
    run_stages.adopt_config(paths.root, new, overwrite=False)
    assert configuration.load_run(paths.root) == new
    assert paths.checkpoints.exists()


def test_resume_may_change_the_schedule_but_not_the_model(tmp_path: Path) -> None:
    paths = trained(tmp_path / "run")
    run_stages.adopt_config(paths.root, changed("train.epochs=30"), overwrite=False, resume=True)
    assert configuration.load_run(paths.root).train.epochs == 30
    with pytest.raises(ConfigError, match=r"model\.vector_dim was 32, now 64\)"):
        run_stages.adopt_config(paths.root, changed("model.vector_dim=64"), overwrite=False, resume=True)


def test_a_directory_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ArtifactError) as caught:
        run_stages.adopt_config(tmp_path, CONFIG, overwrite=True)
    assert str(caught.value) == (
        f"--run_dir: invalid directory '{tmp_path}' (it is not empty and not a twotower run directory); "
        "choose a new or empty one"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ArtifactError, match="run' .it is a file.; choose a new or empty one$"):
        run_stages.adopt_config(tmp_path / "run", CONFIG, overwrite=False)


def test_a_run_directory_of_another_version_is_refused_not_replaced(tmp_path: Path) -> None:
    run_stages.adopt_config(tmp_path / "run", CONFIG, overwrite=False)
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 9}))
    before = path.read_text()
    with pytest.raises(ArtifactError, match="config.json: invalid schema_version 9 .expected 2, "):
        run_stages.adopt_config(tmp_path / "run", CONFIG, overwrite=False)
    assert path.read_text() == before


def test_training_needs_the_data_it_was_prepared_with(tmp_path: Path) -> None:
    run_stages.adopt_config(tmp_path, CONFIG, overwrite=False)
    run_stages.require_same_data(tmp_path, changed("model.vector_dim=64", "data.root=/moved"))
    with pytest.raises(ConfigError) as caught:
        run_stages.require_same_data(tmp_path, changed("data.label=click"))
    assert str(caught.value) == (
        f'{tmp_path} was prepared with another configuration (data.label was "", now "click"); '
        "run twotower prepare with this one first"
    )


def test_differences_name_features_by_position() -> None:
    new = changed("item_features=(Hash('item_id', buckets=50), Numeric('price'))")
    found = run_stages.list_differences(CONFIG, new, "prepare")
    assert found[0] == "item_features[0].buckets was 100, now 50"
    assert 'item_features[1].column was absent, now "price"' in found


# --- what is finished ---------------------------------------------------------------------------------------------


def test_beginning_a_stage_forgets_the_later_ones(tmp_path: Path) -> None:
    for stage in run_stages.STAGES:
        run_stages.Stages(tmp_path).begin(stage, f"key of {stage}")
        record = run_stages.Stages(tmp_path)
        record.begin(stage, f"key of {stage}")
        record.finish(stage, place="here")
    assert all(run_stages.Stages(tmp_path).is_done(stage, f"key of {stage}") for stage in run_stages.STAGES)
    run_stages.Stages(tmp_path).begin("train", "key of train")
    record = run_stages.Stages(tmp_path)
    assert record.is_done("prepare", "key of prepare")
    assert record.is_interrupted("train", "key of train") and not record.is_done("train", "key of train")
    assert not record.is_done("evaluate", "key of evaluate") and record.fact("export", "place") is None


def test_another_key_is_neither_done_nor_interrupted(tmp_path: Path) -> None:
    record = run_stages.Stages(tmp_path)
    record.begin("prepare", "a")
    assert not record.is_interrupted("prepare", "b")
    record.finish("prepare")
    assert not record.is_done("prepare", "b")


@pytest.mark.parametrize(
    ("override", "stale"),
    [
        ("seed=3", {"prepare"}),
        ("data.positive=a > 3", {"prepare"}),
        ("model.residual=true", {"train"}),
        ("train.epochs=3", {"train"}),
        ("evaluation.query=event", {"train", "evaluate"}),
        ("evaluation.ks=(20, 30)", {"evaluate"}),
        ("evaluation.slices=('user_id',)", {"evaluate"}),
        ("evaluation.recent_days=30", {"evaluate"}),
        ("index.target_recall=0.5", {"export"}),
        ("data.root=/moved", set()),
    ],
)
def test_a_key_changes_with_what_its_stage_reads(override: str, stale: set[str], tmp_path: Path) -> None:
    def key(config: ExperimentConfig, stage: str) -> str:
        return run_stages.compute_stage_key(config, tmp_path, stage)

    new = changed(override)
    assert {stage for stage in run_stages.STAGES if key(CONFIG, stage) != key(new, stage)} == stale


def test_a_key_follows_the_stage_before(tmp_path: Path) -> None:
    run_stages.Stages(tmp_path).begin("prepare", "one")
    before = run_stages.compute_stage_key(CONFIG, tmp_path, "train")
    run_stages.Stages(tmp_path).begin("prepare", "two")
    assert run_stages.compute_stage_key(CONFIG, tmp_path, "train") != before


def test_a_damaged_version_warms_no_training(export_dir: Path, tmp_path: Path) -> None:
    """Raised before anything is trained; a run directory, and a version by itself, are taken as they are."""
    shutil.copytree(export_dir, tmp_path / "root")
    version = tmp_path / "root" / "7"
    assert final_fit.find_model(tmp_path / "root") == final_fit.find_model(version) == version
    assert final_fit.find_model(tmp_path) == tmp_path
    weights = version / "item_tower" / "variables" / "variables.data-00000-of-00001"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for path in (tmp_path / "root", version):
        with pytest.raises(ArtifactError) as caught:
            final_fit.find_model(path)
        assert str(caught.value).startswith(f"{weights}: damaged: its sha256 is ")
