import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.export.trained import K
from twotower_tf import artifacts, resources
from twotower_tf import config as configuration
from twotower_tf.bundle import bundle, export_root
from twotower_tf.bundle.verify_bundle import verify
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, TimeSplit
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.export import export_bundle as exporting
from twotower_tf.export import signature_inputs
from twotower_tf.export.export_bundle import export
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.inputs import rows_to_arrays, side_inputs
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import checkpoints, tower_vectors, training_loop

REPOSITORY = Path(__file__).resolve().parents[2]


def read_by_hand(path):
    """The TSV as anybody reads it."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [line[0] for line in lines], np.array([line[1].split(",") for line in lines], np.float32)


def test_files_of_a_version(export_dir):
    assert [path.name for path in export_dir.iterdir()] == ["7"]
    files = sorted(path.relative_to(export_dir / "7").as_posix() for path in export_dir.rglob("*") if path.is_file())
    assert files == [
        "assets.extra/tf_serving_warmup_requests",
        "config.json",
        "index/index.json",
        "index/item_ids",
        "index/vectors.npy",
        "item_embeddings.tsv",
        "item_tower/saved_model.pb",
        "item_tower/variables/variables.data-00000-of-00001",
        "item_tower/variables/variables.index",
        "items.parquet",
        "manifest.json",
        "sample_users.npy",
        "saved_model.pb",
        "statistics.json",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]


def test_manifest_says_what_is_there(export_dir, trained):
    path, (_, config) = export_dir / "7", trained
    manifest = json.loads((path / "manifest.json").read_text())
    stated = {
        "schema_version": 2,
        "format": "twotower_tf bundle",
        "version": 7,
        "vector_dim": 8,
        "similarity": "cosine",
    }
    assert stated.items() <= manifest.items()
    assert manifest["items"] == 150
    assert manifest["config_fingerprint"] == configuration.fingerprint(config)
    assert manifest["index"]["kind"] == "exact" and manifest["index"]["recall"]["measured"] == 1.0
    assert manifest["evaluation"] is None
    assert manifest["libraries"]["tensorflow"].startswith("2.20.")
    assert manifest["origin"] == {"kind": "export"} and manifest["formats"] == ["tsv"]
    assert manifest["signatures"]["user"] == ["from_encoded", "from_examples", "recommend", "serving_default"]
    tables = manifest["tables"]  # an id's table has a row per bucket and one for no value at most; float32
    assert {each["bytes"] for each in tables["item"].values()} >= {500 * 4 * 4, 20 * 4 * 4}
    assert all(
        each["bytes"] == 4 * np.prod(each["shape"], initial=1) for side in tables.values() for each in side.values()
    )
    everything = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    del everything["manifest.json"]
    assert manifest["files"] == {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in everything.items()
    }
    assert configuration.from_json((path / "config.json").read_text(), "config.json") == config


def test_item_vectors_are_the_trained_ones_in_catalogue_order(export_dir, trained):
    run_dir, config = trained
    prepared = Prepared.open(run_dir)
    ids, found = read_by_hand(export_dir / "7" / "item_embeddings.tsv")
    assert ids == prepared.item_ids().tolist() == bundle.Bundle.open(export_dir).items["item_id"].to_pylist()
    expected = tower_vectors.item_vectors(checkpoints.load_model(config, run_dir), EncodedData(config, prepared))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.unique(found, axis=0).shape[0] > 100  # not one vector for all


def test_canaries_are_real_users_with_the_best_items(export_dir, trained):
    run_dir, config = trained
    prepared = Prepared.open(run_dir)
    manifest = json.loads((export_dir / "7" / "manifest.json").read_text())
    ids, items = read_by_hand(export_dir / "7" / "item_embeddings.tsv")
    split, rows = signature_inputs.sample_users(prepared, 1000)
    users = tower_vectors.user_vectors(
        checkpoints.load_model(config, run_dir), EncodedData(config, prepared), split, rows
    )
    names = prepared.user_ids()[prepared.columns(split, ["user_row"])["user_row"][rows]]
    vector_of = dict(zip(names, users, strict=True))
    assert len({canary["user"]["user_id"] for canary in manifest["canaries"]}) == 8
    for canary in manifest["canaries"]:
        scores = items @ vector_of[canary["user"]["user_id"]]
        best = np.argsort(-scores, kind="stable")[:10]
        assert canary["item_ids"] == [ids[row] for row in best]
        np.testing.assert_allclose(canary["scores"], scores[best], atol=1e-6)


def test_sampled_users_are_told_as_they_were_prepared(trained):
    """Against the Parquet files, read with pandas: values, the event's time, and the history before it."""
    run_dir, config = trained
    prepared = Prepared.open(run_dir)
    split, rows = signature_inputs.sample_users(prepared, 40)
    assert split == "test" and len(set(rows)) == 40
    inputs = side_inputs(config, "user")
    arrays = signature_inputs.user_arrays(config, prepared, EncodedData(config, prepared), split, rows)
    people = signature_inputs.to_rows(inputs, arrays)
    table = prepared.read_rows(split).to_pandas().iloc[rows]
    item_ids, seen = prepared.item_ids(), prepared.sequence("seen")
    for person, (_, row) in zip(people, table.iterrows(), strict=True):
        assert person["timestamp"] == row["timestamp"]
        for name in ("user_id", "country", "device_type"):
            assert person.get(name) == (row[f"user.{name}"] if isinstance(row[f"user.{name}"], str) else None)
        assert person.get("age", -1) == (row["user.age"] if row["user.age"] == row["user.age"] else -1)
        assert person.get("interests", []) == [tag for tag in (row["user.interests"] or "").split("|") if tag]
        before = [item_ids[item] for item in seen[row["history_start"] : row["history_end"]]]
        assert person.get("history", []) == before[-5:]
    for name, array in rows_to_arrays(inputs, people).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_skew_between_training_and_serving_is_refused(trained, tmp_path, monkeypatch):
    real = tower_vectors.item_vectors

    def skewed(*args):
        found = real(*args)
        found[3] += 2e-5
        return found

    monkeypatch.setattr(exporting.tower_vectors, "item_vectors", skewed)
    with pytest.raises(ArtifactError) as raised:
        export(trained[1], trained[0], tmp_path / "e")
    assert str(raised.value).startswith("the exported item tower differs from the trained one by up to 2e-05")
    assert "on 1 of 150 items: 'i00003'; nothing was published" in str(raised.value)
    assert list((tmp_path / "e").iterdir()) == []


def test_each_table_is_in_memory_once(trained, tmp_path, monkeypatch):
    """An exported tower is loaded when no trained weight is left. Also: skew of the user tower is refused."""
    load_model, tower, user_vectors = checkpoints.load_model, exporting.Tower, tower_vectors.user_vectors
    trained_weights, left = [], {}

    def load_and_watch(*args):
        model = load_model(*args)
        trained_weights.extend((weight.name, weakref.ref(weight)) for weight in model.weights)
        return model

    def count_and_load(bundle_dir, config, side, version):
        left[side] = [name for name, weight in trained_weights if weight() is not None]
        return tower(bundle_dir, config, side, version)

    monkeypatch.setattr(resources, "WORTH_COLLECTING", 0)
    monkeypatch.setattr(exporting.checkpoints, "load_model", load_and_watch)
    monkeypatch.setattr(exporting, "Tower", count_and_load)
    monkeypatch.setattr(exporting.tower_vectors, "user_vectors", lambda *args: user_vectors(*args) * np.float32(1.1))
    with pytest.raises(ArtifactError, match=r"the exported user tower differs from the trained one by up to 0\.\d+"):
        export(trained[1], trained[0], tmp_path / "e")
    assert left == {"item": [], "user": []}
    names = [name for name, _ in trained_weights]
    assert sum("user_projection" in name for name in names) == sum("item_projection" in name for name in names) == 2
    assert sum("user_embedding_4/table" in name for name in names) == 1  # with the user tower alone
    assert sum("item_embedding_4/table" in name for name in names) == 1


@pytest.mark.parametrize(
    ("projection", "refusal"),
    [
        ("item_projection", "the vectors of 150 items are not finite: 'i00000', 'i00001', 'i00002', ...; the model"),
        ("user_projection", "the vectors of 166 users are not finite; the model diverged; train it again, with a"),
    ],
)
def test_vectors_that_are_no_numbers_are_refused(projection, refusal, trained, tmp_path, monkeypatch):
    real = checkpoints.load_model

    def diverged(*args):
        model = real(*args)
        for layer in model.layers:
            if layer.name == projection:
                layer.bias.assign(layer.bias * np.float32("nan"))
        return model

    monkeypatch.setattr(exporting.checkpoints, "load_model", diverged)
    with pytest.raises(ArtifactError) as raised:
        export(trained[1], trained[0], tmp_path / "e")
    assert refusal in str(raised.value)
    assert list((tmp_path / "e").iterdir()) == []


@pytest.mark.quality
def test_a_model_of_bfloat16_tables_is_exported_and_verified(trained, tmp_path):
    run_dir, config = trained
    shutil.copytree(run_dir / "prepared", tmp_path / "run" / "prepared")
    halved = dataclasses.replace(config, model=dataclasses.replace(config.model, table_dtype="bfloat16"))
    artifacts.write_text(tmp_path / "run" / "config.json", configuration.to_json(halved))
    training_loop.train(halved, tmp_path / "run")
    path = export(halved, tmp_path / "run", tmp_path / "e", version=1)
    tables = json.loads((path / "manifest.json").read_text())["tables"]["item"]
    assert tables["item_embedding_4-table"]["bytes"] == 20 * 4 * 2  # two bytes a number
    assert verify(tmp_path / "e")[0].startswith("version 1: 15 files")


def test_a_catalogue_without_a_trained_item_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Prepared, "train_count", lambda self: np.zeros(self.num_items, np.int64))
    with pytest.raises(DataError, match="items.parquet: none of the 150 items has a training positive"):
        export(trained[1], trained[0], tmp_path / "e")


def test_active_days_needs_a_time(trained, tmp_path):
    timeless = configuration.override(
        trained[1],
        [
            "data.timestamp=",
            "data.split=RandomSplit()",
            "user_features=(Hash('user_id', buckets=9),)",
        ],
    )
    with pytest.raises(ConfigError, match="--active_days: needs event times; name their column in data.timestamp"):
        export(timeless, trained[0], tmp_path / "e", active_days=1)


def test_active_days_and_keep(trained, tmp_path):
    """Also: metrics.json's summary, a second version next to the first, only the newest kept."""
    run_dir, config = trained
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    metrics = {"split": "test", "users": 3, "metrics": {"recall@20": 0.5}, "slices": {"cold": 1}}
    artifacts.write_json(copy / "metrics.json", metrics)
    root = tmp_path / "e"
    with export_root.lock_root(root):
        shutil.copytree(bundle_of(config, run_dir, tmp_path), root / "3")
    days = 1
    path = export(config, copy, root, active_days=days, keep=1)
    assert [each.name for each in root.iterdir()] == [path.name]
    parts = [part for split in ("train", "valid", "test") for part in Prepared.open(copy).parts(split)]
    events = pd.concat([pd.read_parquet(part, columns=["item_row", "timestamp"]) for part in parts])
    recent = events[events["timestamp"] > events["timestamp"].max() - days * 86400]["item_row"].unique()
    expected = sorted(Prepared.open(copy).item_ids()[recent])
    assert 0 < len(expected) < 150
    opened = bundle.Bundle.open(root)
    assert read_by_hand(path / "item_embeddings.tsv")[0] == expected == opened.items["item_id"].to_pylist()
    assert opened.searcher().items.ids.tolist() == expected
    assert opened.manifest["evaluation"] == {"split": "test", "users": 3, "metrics": {"recall@20": 0.5}}
    assert opened.manifest["items"] == len(expected)


def test_active_days_know_the_runs_that_are_continued(tmp_path):
    """An item seen only by the earlier run, and only without a click, is active as long as its days last."""
    events = tmp_path / "events"
    events.mkdir()
    config = ExperimentConfig(
        name="days",
        data=DataConfig(root=str(tmp_path), events="events", label="click", split=TimeSplit(0, 0)),
        item_features=(Hash("item_id", buckets=10),),
        user_features=(Hash("user_id", buckets=10),),
    )
    days = {
        "1.csv": ["u,old,86400,1", "u,shown,172800,0", "u,both,86400,1"],
        "2.csv": ["u,both,259200,1", "u,new,259200,1", "u,old,3600,0"],
    }
    since = None
    for name, rows in days.items():
        (events / name).write_text("\n".join(["user_id,item_id,timestamp,click", *rows]))
        prepare_log(config, tmp_path / name, since=since)
        since = tmp_path / name
    prepared = Prepared.open(since)
    ids = prepared.item_ids()
    found = {days: {ids[row] for row in exporting._exported_rows(config, prepared, days)} for days in (1, 2, 3)}
    assert found == {1: {"both", "new"}, 2: {"both", "new", "shown"}, 3: {"both", "new", "shown", "old"}}


def bundle_of(config, run_dir, tmp_path):
    """Makes a directory that counts as a bundle version, without another export."""
    path = tmp_path / "fake"
    path.mkdir()
    artifacts.write_json(path / "manifest.json", {"schema_version": 1, "format": "twotower_tf bundle", "version": 3})
    return path


def test_large_catalogues_have_no_recommend_signature(trained, tmp_path, monkeypatch):
    run_dir, config = trained
    saved = []
    monkeypatch.setattr(exporting.signatures, "save", lambda *args: saved.append(args[-1]))
    run = exporting._Run.open(config, run_dir, run_dir, active_days=0)
    ids = run.catalogue["item_id"].to_pylist()
    searcher = exporting.build_index(ids, np.eye(150, dtype=np.float32), config.index)
    for limit in ("index.recommend_below=149", "index.recommend_below=150", "index.k=1000"):
        limited = dataclasses.replace(run, config=configuration.override(config, [limit]))
        exporting._save_tower(limited, run.load_tower("user"), "user", tmp_path, 1, searcher)
    assert saved[0] is None
    assert saved[1].k == K
    assert saved[2].k == 1000 and len(saved[2].items) == 150


KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from twotower_tf import artifacts, config
from twotower_tf.bundle import item_tsv, verify_staging
from twotower_tf.export import export_bundle
run_dir, root, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "writing":
    item_tsv.write_tsv = die
else:
    os.rename = die
    verify_staging.run_verify = lambda directory: subprocess.CompletedProcess([], 0, "", "")
export_bundle.export(config.load_run(run_dir), run_dir, root, version=8)
"""


def test_a_killed_export_leaves_no_version(trained, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_NUM_INTRAOP_THREADS": "1"}
    moments = {"writing": ["item_tower"], "renaming": ["item_tower", "manifest.json", "saved_model.pb"]}
    roots = {moment: tmp_path / moment for moment in moments}
    running = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(trained[0]), str(root), moment], env=environment)
        for moment, root in roots.items()
    ]
    assert [process.wait(timeout=120) for process in running] == [-signal.SIGKILL] * 2
    for moment, root in roots.items():
        (leftover,) = root.glob(".tmp-*")
        assert leftover.name.startswith(".tmp-8-")
        assert {path.name for path in leftover.iterdir()} >= set(moments[moment])
        assert bundle.list_versions(root) == []
        with pytest.raises(ArtifactError, match="at least one bundle version"):
            bundle.Bundle.open(root)
        with export_root.lock_root(root):
            assert [path.name for path in root.iterdir()] == [".lock"]
        assert list(root.iterdir()) == []
