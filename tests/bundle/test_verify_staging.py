"""Verification of a finished version before it is published, in a process of its own.

Two tests start that process; the others verify in this one, where TensorFlow is loaded already.
"""

import json
import shutil
import signal

import numpy as np
import pytest

from twotower_tf import artifacts, interpreter
from twotower_tf.bundle import saved_model_edits, verify_staging
from twotower_tf.bundle.bundle import seal
from twotower_tf.bundle.rollback_version import rollback
from twotower_tf.bundle.verify_staging import run_verify
from twotower_tf.errors import ArtifactError


@pytest.fixture
def own_process(verification_in_this_process, monkeypatch):
    """The real process, which other tests replace."""
    monkeypatch.setattr(verify_staging, "run_verify", run_verify)


@pytest.fixture
def staged(export_dir, tmp_path):
    """A version under the name that it has before it is published."""
    path = tmp_path / ".tmp-7-abc"
    shutil.copytree(export_dir / "7", path)
    return path


def restate(path, name):
    """Makes the checksum of a file right again: only what reads the file can find the damage."""
    document = json.loads((path / "manifest.json").read_text())
    document["files"][name] = artifacts.sha256_file(path / name)
    artifacts.write_json(path / "manifest.json", seal(document))


def refusal(path):
    with pytest.raises(ArtifactError) as raised:
        verify_staging.verify_staging(path)
    return str(raised.value)


def test_a_good_version_passes_and_a_changed_byte_is_refused(staged, own_process):
    verify_staging.verify_staging(staged)
    tsv = staged / "item_embeddings.tsv"
    content = bytearray(tsv.read_bytes())
    content[100] ^= 1
    tsv.write_bytes(content)
    message = refusal(staged)
    assert message.startswith(f"verification failed: {tsv}: damaged: its sha256 is ")
    assert message.endswith("; nothing was published") and "\n" not in message


def test_a_tower_that_answers_as_another_version_is_refused(staged):
    model = saved_model_edits.read(staged / "item_tower")
    saved_model_edits.state_version(model, 6, staged)
    saved_model_edits.write(staged / "item_tower", model)
    restate(staged, "item_tower/saved_model.pb")
    assert refusal(staged) == (
        f"verification failed: {staged}: the item tower answers as version 6 (expected 7, that of "
        "the manifest); export again; nothing was published"
    )


def test_variables_that_tensorflow_cannot_read_are_refused(staged):
    (staged / "variables" / "variables.index").write_bytes(b"no table")
    restate(staged, "variables/variables.index")
    assert f"verification failed: {staged}/variables/variables.*: damaged: " in refusal(staged)


def test_a_process_that_is_killed_or_cannot_start_is_an_error(staged, own_process, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(interpreter.sys, "executable", "/bin/false")
        message = refusal(staged)
    assert message == f"{staged}: `twotower verify` ended with status 1 (no message); nothing was published"
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    monkeypatch.setattr(verify_staging, "_COMMAND", code)
    assert refusal(staged) == f"{staged}: `twotower verify` ended with status -9 (no message); nothing was published"


def test_a_rollback_whose_version_is_refused_publishes_nothing(export_dir, tmp_path, monkeypatch):
    """The canaries of the earlier version are exchanged, all checksums mended: only its answers are wrong."""
    root = tmp_path / "tiny"
    shutil.copytree(export_dir, root)
    (root / "7").rename(root / "5")
    for path in (root / "5", root / "5" / "item_tower"):
        model = saved_model_edits.read(path)
        saved_model_edits.state_version(model, 5, path)
        saved_model_edits.write(path, model)
    document = json.loads((root / "5" / "manifest.json").read_text())
    for name in ("saved_model.pb", "item_tower/saved_model.pb"):
        document["files"][name] = artifacts.sha256_file(root / "5" / name)
    for name in ("fingerprint.pb", "item_tower/fingerprint.pb"):
        document["files"].pop(name, None)
    document["canaries"][0]["item_ids"].reverse()
    artifacts.write_json(root / "5" / "manifest.json", seal({**document, "version": 5}))
    shutil.copytree(export_dir / "7", root / "7")
    with pytest.raises(ArtifactError, match="^verification failed: .*: the index answers for canary .*; nothing was"):
        rollback(root, 5, version=8)
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".lock")) == ["5", "7"]
    assert np.isfinite(document["canaries"][0]["scores"]).all()
