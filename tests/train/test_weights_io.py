"""Weights on disk: the same bits back, in parts; no weight that is not a number; nothing of another shape."""

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.train import weights_io


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(weights_io, "_AT_ONCE", 10)  # of numbers: tables below are read and written in parts


def make(seed):
    rng = np.random.default_rng(seed)
    return {
        "table": tf.Variable(rng.normal(size=(7, 3)).astype(np.float32), name="a/table"),
        "half": tf.Variable(tf.cast(rng.normal(size=(11, 4)), tf.bfloat16), name="b/table"),
        "long": tf.Variable(rng.normal(size=23).astype(np.float32), name="c"),
        "step": tf.Variable(rng.integers(2**40, 2**41), dtype=tf.int64, name="d"),
        "one": tf.Variable(np.float32(rng.normal()), name="e"),
    }


def test_what_is_read_is_what_was_written(tmp_path):
    written, read = make(1), make(2)
    weights_io.write(tmp_path / "w.npz", written)
    weights_io.read(tmp_path / "w.npz", read)
    for name, variable in read.items():
        assert variable.numpy().tobytes() == written[name].numpy().tobytes()
    # Anybody's NumPy reads the files.
    with np.load(tmp_path / "w.npz") as file:
        np.testing.assert_array_equal(file["table"], written["table"].numpy())
        assert file["step"] == written["step"].numpy() and file["half"].dtype == np.uint16


@pytest.mark.parametrize("name", ["table", "half", "long", "step", "one"])
def test_what_is_assigned_is_there_and_large_values_come_in_parts(name, monkeypatch):
    at_once = []
    real = weights_io.write_rows
    monkeypatch.setattr(
        weights_io, "write_rows", lambda table, start, part: (at_once.append(len(part)), real(table, start, part))
    )
    variable, value = make(2)[name], make(1)[name].numpy()
    weights_io.assign(variable, value)
    assert variable.numpy().tobytes() == value.tobytes()
    assert at_once == {"table": [3, 3, 1], "half": [2] * 5 + [1], "long": [10, 10, 3]}.get(name, [])


@pytest.mark.parametrize("name", ["table", "half", "long", "one"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_not_written(name, value, tmp_path):
    some = make(1)
    wrong = np.array(some[name].numpy().astype(np.float32))
    wrong.flat[-1] = value
    some[name].assign(tf.cast(wrong, some[name].dtype))
    with pytest.raises(DataError) as error:
        weights_io.write(tmp_path / "w.npz", some)
    label = some[name].name.removesuffix(":0")
    assert str(error.value) == (
        f"training: {label} holds numbers that are not finite, and is not kept; lower train.initial_lr or "
        "train.table_optimizer.initial_lr, or add train.warmup_steps"
    )


def test_another_shape_or_type_and_a_missing_or_damaged_file_are_refused(tmp_path):
    path = tmp_path / "w.npz"
    weights_io.write(path, make(1))
    with pytest.raises(ArtifactError) as error:
        weights_io.read(path, {"table": tf.Variable(tf.zeros((7, 4)))})
    assert str(error.value) == (
        f"{path}: table: invalid float32 array of shape [7, 3] (expected float32 of shape [7, 4]); the file is of "
        "another model or optimizer"
    )
    with pytest.raises(ArtifactError, match="table: invalid float32 array .* .expected uint16"):
        weights_io.read(path, {"table": tf.Variable(tf.zeros((7, 3), tf.bfloat16))})
    with pytest.raises(ArtifactError, match="w.npz: missing variable other; the file is of another model or optimizer"):
        weights_io.read(path, {"other": tf.Variable(0.0)})
    with pytest.raises(ArtifactError, match="v.npz: no such file; train again"):
        weights_io.read(tmp_path / "v.npz", {})
    content = path.read_bytes()
    one = content.index(make(1)["long"].numpy().tobytes())
    path.write_bytes(content[:one] + b"?" + content[one + 1 :])
    with pytest.raises(ArtifactError, match="w.npz: damaged: Bad CRC-32 for file 'long.npy'; train again"):
        weights_io.read(path, {"long": tf.Variable(tf.zeros(23))})
    path.write_bytes(content[:-30])
    with pytest.raises(ArtifactError, match="w.npz: damaged: .*; train again"):
        weights_io.read(path, make(1))
