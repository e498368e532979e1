"""Edits of a SavedModel, in models of a few operations."""

import os

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.bundle import saved_model_edits
from twotower_tf.errors import ArtifactError
from twotower_tf.index.item_vectors import ItemVectors


def save(path, constant="bundle_version"):
    module = tf.Module()
    module.item_ids = tf.Variable(["a", "b"], trainable=False, shape=[None])
    module.item_vectors = tf.Variable([[1.0, 0.0], [0.0, 1.0]], trainable=False, shape=[None, 2])
    module.weights = {"w": tf.Variable(3.0)}

    def recommend(age):
        version = tf.fill(tf.shape(age), tf.constant(5, tf.int64, name=constant))
        places = tf.zeros_like(tf.strings.as_string(age), tf.int32)[:, tf.newaxis]
        ids = tf.gather(module.item_ids, places)
        scores = tf.reduce_sum(module.item_vectors) * module.weights["w"] + tf.zeros_like(age)[:, tf.newaxis]
        return {"item_ids": ids, "scores": scores, "model_version": version}

    spec = tf.TensorSpec([None], tf.float32, "age")
    signature = tf.function(recommend, autograph=False).get_concrete_function(age=spec)
    tf.saved_model.save(module, str(path), signatures={"recommend": signature})
    return path


def ask(path):
    answer = tf.saved_model.load(str(path)).signatures["recommend"](age=tf.constant([1.0]))
    return answer["item_ids"].numpy().tolist(), float(answer["scores"][0, 0]), answer["model_version"].numpy().tolist()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


def test_version_and_catalogue_change_and_the_original_does_not(model, tmp_path):
    """The new directory's file began as a hard link to the old one."""
    (tmp_path / "new").mkdir()
    os.link(model / "saved_model.pb", tmp_path / "new" / "saved_model.pb")
    changed = saved_model_edits.read(model)
    saved_model_edits.state_version(changed, 2**62, model)
    saved_model_edits.state_answers(changed, 3)
    saved_model_edits.write(tmp_path / "new", changed)
    items = ItemVectors(["ß", "y", "z"], np.float32([[0, 1], [1, 0], [0.6, 0.8]]))
    saved_model_edits.copy_variables(model, tmp_path / "new", items)
    assert ask(tmp_path / "new") == ([["ß".encode()]], pytest.approx(3 * 3.4), [2**62])
    outputs = saved_model_edits.list_signatures(saved_model_edits.read(tmp_path / "new"))["recommend"].outputs
    assert [dim.size for dim in outputs["scores"].tensor_shape.dim] == [-1, 3]
    assert ask(model) == ([[b"a"]], 6.0, [5])
    files = sorted(path.name for path in (tmp_path / "new" / "variables").iterdir())
    assert files == ["variables.data-00000-of-00001", "variables.index"]


def test_what_cannot_be_stated_anew(tmp_path):
    other = save(tmp_path / "other", constant="number")
    with pytest.raises(ArtifactError) as raised:
        saved_model_edits.state_version(saved_model_edits.read(other), 6, other)
    assert str(raised.value) == (
        f"{other}/saved_model.pb: its version cannot be changed: its graph has no constant 'bundle_version'"
    )
    (other / "variables" / "variables.index").write_bytes(b"no table")
    with pytest.raises(ArtifactError, match=r"/other/variables/variables.\*: damaged: "):
        saved_model_edits.copy_variables(other, tmp_path / "copy", ItemVectors(["a"], np.float32([[1, 0]])))
    (other / "saved_model.pb").write_bytes(b"\xff\xff no model")
    with pytest.raises(ArtifactError, match="/other/saved_model.pb: damaged: no SavedModel"):
        saved_model_edits.read(other)
    (other / "saved_model.pb").unlink()
    with pytest.raises(ArtifactError, match="/other/saved_model.pb: missing"):
        saved_model_edits.read(other)
