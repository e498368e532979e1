"""Tables in shards, against the same table as one array."""

import numpy as np
import pytest
import tensorflow as tf

from twotower_tf.config import Adagrad, LazyAdam, RowwiseAdagrad, TrainConfig
from twotower_tf.model import row_shards
from twotower_tf.model.embeddings import EmbeddingTable
from twotower_tf.model.optimizers import make_optimizer
from twotower_tf.model.row_shards import RowShards
from twotower_tf.train import weights_io

ROWS, DIM = 11, 3


def make_table(shards, values):
    table = EmbeddingTable(ROWS, DIM, shards=shards, name="t")
    table.build(None)
    row_shards.write_rows(table.table, 0, values)
    return table


@pytest.fixture
def values():
    return np.random.default_rng(4).normal(size=(ROWS, DIM)).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "shards", "sizes"), [(11, 4, [3, 3, 3, 2]), (10, 4, [3, 3, 2, 2]), (8, 4, [2] * 4), (2, 4, [1, 1])]
)
def test_first_shards_have_the_rows_that_are_left_over(rows, shards, sizes):
    assert row_shards.list_sizes(rows, shards) == sizes


def test_rows_are_where_they_belong(values):
    table = make_table(4, values).table
    assert isinstance(table, RowShards) and table.name == "table" and table.shape == (ROWS, DIM)
    for part, expected in zip(table.parts, np.split(values, [3, 6, 9]), strict=True):
        np.testing.assert_array_equal(part, expected)
    rows = np.array([[10, 0, 3], [3, 8, 10]])
    np.testing.assert_array_equal(row_shards.gather_rows(table, rows), values[rows])
    np.testing.assert_array_equal(row_shards.read_rows(table, 2, 7), values[2:7])
    values[[9, 1, 2]] = new = np.arange(9, dtype=np.float32).reshape(3, 3)
    row_shards.scatter_rows(table, np.array([9, 1, 2]), new)
    np.testing.assert_array_equal(tf.concat(table.parts, axis=0), values)


def test_random_rows_do_not_depend_on_the_shards():
    whole, parts = (EmbeddingTable(ROWS, DIM, shards=shards, name="t") for shards in (1, 3))
    for table in (whole, parts):
        table.build(None)
        table.draw_rows(np.arange(ROWS) % 4 > 0, seed=7)
    np.testing.assert_array_equal(tf.concat(parts.table.parts, axis=0), whole.table)
    assert np.count_nonzero(np.any(whole.table, axis=1)) == 8


@pytest.mark.parametrize("rule", [RowwiseAdagrad(), Adagrad(), LazyAdam()])
def test_optimizers_update_shards_as_one_table(rule, values, tmp_path):
    """Also their state in a file, into which shards go as one."""
    ids = tf.constant([[0, 4, -1], [4, 10, 10]])
    files = []
    for shards in (1, 3):
        table = make_table(shards, values)
        kernel = tf.Variable(tf.ones([DIM]), name="kernel")
        weights = [*table.trainable_weights, kernel]
        optimizer = make_optimizer(TrainConfig(table_optimizer=rule, initial_lr=0.1), 10, seed=1)
        optimizer.build(weights)
        for step in (1.0, 2.0):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(table(ids, [0, 0, 0]) * kernel) * step)
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        path = tmp_path / f"{shards}.npz"
        weights_io.write(path, weights_io.names(weights) | weights_io.numbered(optimizer.list_state()))
        files.append(dict(np.load(path)))
    whole, parts = files
    assert whole.keys() == parts.keys() and "table" in whole
    for name, expected in whole.items():
        np.testing.assert_allclose(parts[name], expected, rtol=1e-6, err_msg=name)
    moved = np.any(parts["table"] != values, axis=1)
    assert np.flatnonzero(moved).tolist() == [0, 4, 10]


def test_a_file_of_one_table_is_read_into_shards(values, tmp_path):
    weights_io.write(tmp_path / "w.npz", weights_io.names(make_table(1, values).weights))
    table = make_table(4, np.zeros_like(values))
    weights_io.read(tmp_path / "w.npz", weights_io.names(table.weights))
    np.testing.assert_array_equal(tf.concat(table.table.parts, axis=0), values)
