"""The trial of a finished version in a fresh process, and TensorFlow's C library that it runs the towers with."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tensorflow.core.protobuf import config_pb2

from twotower_tf import artifacts
from twotower_tf.bundle import fresh, runtime, saved_model_edits
from twotower_tf.bundle.bundle import seal
from twotower_tf.errors import ArtifactError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def staged(export_dir, tmp_path):
    """A version under the name that it has before it is published."""
    path = tmp_path / ".tmp-7-abc"
    shutil.copytree(export_dir / "7", path)
    return path


def restated(path, name):
    document = json.loads((path / "manifest.json").read_text())
    document["files"][name] = artifacts.sha256_file(path / name)
    artifacts.write_json(path / "manifest.json", seal(document))


def refusal(path):
    with pytest.raises(ArtifactError) as raised:
        fresh.check(path)
    return str(raised.value)


def test_a_good_version_passes_and_neither_keras_nor_tensorflows_python_is_imported(staged):
    fresh.check(staged)
    code = "import sys; import twotower_tf.bundle.fresh; print({'tensorflow', 'tf_keras'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "set()"


def test_a_process_that_waits_tries_what_is_written_later_and_never_outlives_a_failure(export_dir, tmp_path):
    with fresh.waiting("exact") as trial:
        shutil.copytree(export_dir / "7", tmp_path / ".tmp-7-late")
        trial.check(tmp_path / ".tmp-7-late")
    with pytest.raises(ArtifactError, match="stopped"), fresh.waiting() as trial:
        raise ArtifactError("stopped")
    assert trial.process.returncode == -9


def test_files_that_are_read_as_they_are_finished_are_compared_with_the_manifest(staged):
    names = ["index", "item_tower", "variables", "item_embeddings.tsv", "items.parquet"]
    with fresh.waiting("exact") as trial:
        for name in names:
            trial.finished(staged, [name])
        trial.check(staged)
    tsv = staged / "item_embeddings.tsv"
    content = bytearray(tsv.read_bytes())
    content[100] ^= 1
    tsv.write_bytes(content)
    with fresh.waiting("exact") as trial:  # not the bytes that the manifest states
        trial.finished(staged, names)
        with pytest.raises(ArtifactError, match="^tried in a fresh process: .*/item_embeddings.tsv: damaged: its "):
            trial.check(staged)


def test_a_damaged_index_is_found_before_it_is_loaded(staged):
    vectors = staged / "index" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with fresh.waiting("exact") as trial:
        trial.finished(staged, ["index"])
        with pytest.raises(ArtifactError, match="^tried in a fresh process: .*/index/vectors.npy: damaged: its "):
            trial.check(staged)


def test_a_file_that_was_changed_after_it_was_read_is_read_again(staged):
    tsv = staged / "item_embeddings.tsv"
    read = fresh._Read()
    read.begin(staged, ["item_embeddings.tsv", "index"])
    before = read.digests(staged)
    assert before["item_embeddings.tsv"] == sha256(tsv.read_bytes()).hexdigest()
    assert set(before) == {"item_embeddings.tsv", "index/index.json", "index/item_ids", "index/vectors.npy"}
    content = tsv.read_bytes()
    tsv.write_bytes(content.replace(b"0", b"1", 1))
    os.utime(tsv, ns=(0, 1))
    assert "item_embeddings.tsv" not in read.digests(staged)
    tsv.unlink()
    assert "item_embeddings.tsv" not in read.digests(staged)


def test_graphs_are_run_as_they_are():
    """The configuration's bytes, as TensorFlow's own classes write them."""
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    assert config.SerializeToString() == runtime._PLAIN


def test_a_process_that_waits_ends_with_whoever_started_it(tmp_path):
    with fresh.waiting() as trial:
        assert trial.process.communicate("", timeout=60)[0] == ""
        assert trial.process.returncode == 1


def test_scann_is_loaded_without_tensorflows_python():
    pytest.importorskip("scann")
    code = (
        "import sys; from twotower_tf.export import fresh; fresh._load_library('scann'); "
        "print('scann' in sys.modules, 'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "True False"


def test_towers_that_answer_as_another_version_or_not_at_all(staged):
    model = saved_model_edits.read(staged / "item_tower")
    saved_model_edits.state_version(model, 6, staged)
    saved_model_edits.write(staged / "item_tower", model)
    restated(staged, "item_tower/saved_model.pb")
    assert refusal(staged) == (
        f"tried in a fresh process: {staged}: the item tower answers as version 6, not 7; nothing was published"
    )
    path = staged / "variables" / "variables.index"
    path.write_bytes(b"no table")
    assert f"{path}: damaged" in refusal(staged)
    restated(staged, "variables/variables.index")
    # The item tower is tried first; make it whole again.
    saved_model_edits.state_version(model, 7, staged)
    saved_model_edits.write(staged / "item_tower", model)
    restated(staged, "item_tower/saved_model.pb")
    assert f"tried in a fresh process: {staged}: TensorFlow refuses it: " in refusal(staged)


def test_a_process_that_dies_is_told(staged, monkeypatch):
    monkeypatch.setattr(fresh.sys, "executable", "/bin/false")
    expected = f"{staged}: a fresh process that tried it ended with status 1 (no message); nothing was published"
    assert refusal(staged) == expected
    with fresh.waiting() as trial:
        trial.process.wait()
        trial.finished(staged, ["index"])
        with pytest.raises(ArtifactError) as raised:
            trial.check(staged)
    assert str(raised.value) == expected
    with pytest.raises(ArtifactError, match="^stopped$"), fresh.waiting() as trial:
        trial.process.wait()
        trial.finished(staged, ["index"])
        raise ArtifactError("stopped")


def test_the_c_library_takes_and_gives_texts_numbers_and_empty_batches(export_dir):
    bundle = export_dir / "7"
    names = saved_model_edits.tensors(saved_model_edits.read(bundle))["recommend"]
    session = runtime.Session(bundle)
    people = {
        "user_id": np.array([b"u000137", "Ünïcode and longer than a small string".encode(), b""], object),
        "country": np.array([b"US", b"", b""], object),
        "age": np.array([30.0, np.nan, 1.0], np.float32),
        "interests": np.array([[b"cars"], [b""], [b""]], object),
        "device_type": np.array([b"tablet", b"", b""], object),
        "timestamp": np.array([1736531435, 0, 0], np.int64),
        "history": np.array([[b"i00114", b"i00140"], [b"", b""], [b"", b""]], object),
    }

    def ask(rows):
        feeds = {names["inputs"][name]: value[rows] for name, value in people.items()}
        outputs = ("item_ids", "scores", "model_version")
        return session.run(feeds, [names["outputs"][name] for name in outputs])

    ids, scores, version = ask(slice(None))
    assert ids.shape == scores.shape == (3, 30) and version.tolist() == [7, 7, 7]
    assert all(text.startswith(b"i0") for text in ids.reshape(-1)) and (np.diff(scores, axis=1) <= 0).all()
    one_ids, one_scores, _ = ask(slice(1, 2))
    assert one_ids.tolist() == ids[1:2].tolist()
    np.testing.assert_allclose(one_scores, scores[1:2], atol=1e-6)
    assert [each.shape for each in ask(slice(0, 0))] == [(0, 30), (0, 30), (0,)]
    with pytest.raises(ArtifactError, match="its graph has no operation 'nothing'"):
        session.run({}, ["nothing:0"])
    with pytest.raises(ArtifactError, match="TensorFlow refuses it: "):
        session.run({}, [names["outputs"]["scores"]])


def test_what_is_no_saved_model(tmp_path):
    with pytest.raises(ArtifactError, match="TensorFlow refuses it: Could not find SavedModel"):
        runtime.Session(tmp_path)
