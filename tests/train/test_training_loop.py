"""Training as a whole: it learns, it keeps the best epoch, it goes on where it was stopped."""

import dataclasses
import json
import math
import os
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.eager import context
from tensorflow.python.framework import kernels

from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    Adagrad,
    AdamW,
    CosineLogitBCE,
    InBatchSoftmax,
    LazyAdam,
    RowwiseAdagrad,
    SamplingConfig,
    TrainConfig,
    Uniform,
)
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.model.losses import blockwise_logits
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import callbacks, training_loop
from twotower_tf.train.checkpoints import Checkpoints, load_model
from twotower_tf.train.tower_vectors import item_vectors, user_vectors


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the prepared run, not trained, and its configuration with three quick epochs."""
    run_dir, config = trained
    shutil.copytree(run_dir / "prepared", tmp_path / "prepared")
    shutil.copy(run_dir / "config.json", tmp_path)
    train = TrainConfig(batch_size=256, epochs=3, initial_lr=0.01, lr_decay_rate=0.5, monitor="")
    return tmp_path, dataclasses.replace(config, train=train)


def vectors(config, run_dir):
    encoded = EncodedData(config, Prepared.open(run_dir))
    model = load_model(config, run_dir)
    return item_vectors(model, encoded), user_vectors(model, encoded, "test", np.arange(50))


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_the_loss_falls_and_the_figures_are_written(run, loss):
    run_dir, config = run
    if loss == "bce":
        train = dataclasses.replace(config.train, epochs=8, initial_lr=0.03, lr_decay_rate=0.9)
        sampling = SamplingConfig((Uniform(per_positive=2),))
        config = dataclasses.replace(config, loss=CosineLogitBCE(), sampling=sampling, train=train)
    document = training_loop.train(config, run_dir)
    assert document == json.loads(RunPaths(run_dir).train.read_text())
    losses = [epoch["loss"] for epoch in document["history"]]
    assert losses[-1] < losses[0]
    if loss == "bce":
        # Before it learns, one of three candidates is clicked: an entropy of 0.637, and an AUC of a half.
        assert losses[-1] < 0.62 and document["history"][-1]["auc"] > 0.6
    else:
        assert document["history"][-1]["in_batch_top_10"] > 10 / 256
    assert document["epochs"] == document["best_epoch"] == config.train.epochs
    assert 0 < document["step_ms"] and 0 <= document["input_bound_fraction"] <= 1
    assert document["table_rows"] == {"item_embedding_4": 20, "shared_embedding_4": 500, "user_embedding_4": 649}
    last = f"{config.train.epochs:05d}-000000000"
    assert [path.name for path in RunPaths(run_dir).checkpoints.iterdir()] == [last]
    assert (RunPaths(run_dir).logs / "projector_config.pbtxt").read_text().count("items.tsv") == 1
    names = (RunPaths(run_dir).logs / "items.tsv").read_text(encoding="utf-8").splitlines()
    assert names[0] == "item_name\titem_id\ttrain_count" and len(names) == 1 + Prepared.open(run_dir).num_items


def test_a_stopped_training_goes_on_to_the_same_end(run, tmp_path_factory):
    run_dir, config = run
    other = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(run_dir, other, dirs_exist_ok=True)
    training_loop.train(config, other)

    class Stop(Exception):
        pass

    def stop_in_the_second_epoch(stage, done, total):
        if done > total // 3:
            raise Stop

    with pytest.raises(Stop):
        training_loop.train(config, run_dir, progress=stop_in_the_second_epoch)
    assert not RunPaths(run_dir).train.exists()
    half = RunPaths(run_dir).checkpoints / ".tmp-00001-000000003-0123456789ab"  # of one killed while it wrote
    half.mkdir()
    (half / "weights.npz").write_bytes(b"half")
    document = training_loop.train(config, run_dir, resume=True)
    assert [path.name for path in RunPaths(run_dir).checkpoints.iterdir()] == ["00003-000000000"]
    assert [epoch["epoch"] for epoch in document["history"]] == [1, 2, 3]
    for got, expected in zip(vectors(config, run_dir), vectors(config, other), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    # Nothing is left to do: resuming once more changes neither figures nor weights.
    assert training_loop.train(config, run_dir, resume=True)["history"] == document["history"]


def test_resume_with_nothing_to_resume_starts_from_the_beginning(run):
    run_dir, config = run
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))
    assert training_loop.train(config, run_dir, resume=True)["epochs"] == 1


def test_the_best_epoch_is_kept_and_patience_ends_training(run):
    run_dir, config = run
    train = dataclasses.replace(config.train, epochs=9, monitor="recall@20", patience=2)
    config = dataclasses.replace(config, train=train)
    recalls = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    kept = []

    def validate(model):
        kept.append([weight.numpy() for weight in model.trainable_weights])
        return {"recall@20": next(recalls)}

    document = training_loop.train(config, run_dir, validate=validate)
    assert (document["epochs"], document["best_epoch"], document["best"]) == (4, 2, 0.3)
    assert document["stopped_early"]
    model = load_model(config, run_dir)
    for weight, expected in zip(model.trainable_weights, kept[1], strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected)
    # With more patience the fifth epoch is tried, and better.
    other = dataclasses.replace(config, train=dataclasses.replace(train, epochs=5, monitor="ndcg@10"))
    with pytest.raises(ConfigError) as error:
        training_loop.train(other, run_dir, resume=True, validate=validate)
    assert str(error.value) == (
        "train.monitor: invalid value 'ndcg@10' (expected the metric that chose epoch 2, the best so far); resume with "
        "that metric, or start over without --resume"
    )
    config = dataclasses.replace(config, train=dataclasses.replace(train, epochs=5, patience=3))
    document = training_loop.train(config, run_dir, resume=True, validate=validate)
    assert (document["epochs"], document["best_epoch"], document["best"]) == (5, 5, 0.9)


def test_patience_ends_training_only_where_it_was_judged(tmp_path):
    """Validates every third epoch, with a patience of two: the fifth epoch is not the end, the sixth would be."""
    epochs = []

    class Nowhere:
        def save(self, model, state, also):
            epochs.append((state["epochs"], state["best_epoch"], state["stopped"]))

    keep = callbacks.CheckpointCallback(Nowhere(), "recall@20", patience=2, steps=1, minutes=1.0)
    keep.set_model(keras.Sequential())
    for epoch, recall in enumerate([None, None, 0.3, None, None, 0.4, None, None, 0.4]):
        keep.on_epoch_end(epoch, {"loss": 1.0} if recall is None else {"loss": 1.0, "val_recall@20": recall})
    assert epochs == [
        (1, 1, False), (2, 2, False), (3, 3, False), (4, 3, False), (5, 3, False), (6, 6, False), (7, 6, False),
        (8, 6, False), (9, 6, True),
    ]  # fmt: skip


def test_the_learning_rate_decays_by_epochs(trained):
    _, config = trained
    train = TrainConfig(batch_size=256, initial_lr=0.8, lr_decay_rate=0.5, lr_decay_epochs=2, monitor="")
    model = training_loop.compile_model(dataclasses.replace(config, train=train), steps_per_epoch=10)
    schedule = model.optimizer._learning_rate
    rates = [float(schedule(step)) for step in (0, 19, 20, 39, 40)]
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.4, 0.4, 0.2])


def test_vectors_are_unit_length(run):
    run_dir, config = run
    training_loop.train(dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1)), run_dir)
    for got in vectors(config, run_dir):
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)


def test_a_loss_that_is_no_number_ends_training_at_once_and_keeps_nothing_of_it(run):
    run_dir, config = run
    train = dataclasses.replace(
        config.train, epochs=2, steps_per_execution=1, checkpoint_minutes=1e-6, table_optimizer=RowwiseAdagrad(1e38)
    )
    with pytest.raises(DataError) as error:
        training_loop.train(dataclasses.replace(config, train=train), run_dir)
    assert str(error.value).startswith("training: ") and "lower train.initial_lr" in str(error.value)
    for path in RunPaths(run_dir).checkpoints.rglob("weights.npz"):
        assert all(np.isfinite(value).all() for value in np.load(path).values())


def test_a_loss_that_is_no_number_is_told_with_its_step():
    watch = callbacks.StopOnNaN(first_step=20)
    watch.on_epoch_begin(2)
    watch.on_train_batch_end(9, {"loss": 0.5})
    with pytest.raises(DataError) as error:
        watch.on_train_batch_end(19, {"loss": math.nan})
    assert str(error.value) == (
        "training: the loss is nan at step 40 of epoch 3, and the model is not saved; lower train.initial_lr or "
        "train.table_optimizer.initial_lr, add train.warmup_steps, or give huge numbers transform='log1p'"
    )


def test_an_untrained_run_and_another_configuration_are_refused(run):
    run_dir, config = run
    with pytest.raises(ArtifactError, match="no trained model; run `twotower train` first"):
        load_model(config, run_dir)
    training_loop.train(dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1)), run_dir)
    with pytest.raises(ArtifactError, match="of another configuration than the run's config.json; train again"):
        load_model(dataclasses.replace(config, loss=InBatchSoftmax(temperature=0.5)), run_dir)


def test_state_of_another_rule_of_tables_is_refused_even_where_shapes_agree(run):
    """With one table, LazyAdam's first moments are where Adagrad's sums of squares would be, and as large."""
    run_dir, config = run

    def with_rule(rule):
        return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1, table_optimizer=rule))

    training_loop.train(with_rule(LazyAdam()), run_dir)
    newest = RunPaths(run_dir).checkpoints / "00001-000000000" / "state.json"
    with pytest.raises(ArtifactError) as error:
        training_loop.train(with_rule(Adagrad()), run_dir, resume=True)
    assert str(error.value) == (
        f"{newest}: the checkpoint has the optimizer state of LazyAdam, which Adagrad cannot use; resume with LazyAdam "
        "as train.table_optimizer, or start over without --resume"
    )
    # Another learning rate, and the towers' rule without or with decay, are matters of the epochs to come.
    slower = with_rule(LazyAdam(initial_lr=1e-4))
    slower = dataclasses.replace(slower, train=dataclasses.replace(slower.train, optimizer=AdamW()))
    assert training_loop.train(slower, run_dir, resume=True)["epochs"] == 1


def test_within_an_epoch_batches_of_another_size_are_refused(run):
    run_dir, config = run
    model = training_loop.compile_model(config, steps_per_epoch=9)
    model.optimizer.build(model.trainable_variables)
    state = {"epochs": 1, "step": 3, "best_epoch": 1, "best": None, "history": [], "stopped": False}
    Checkpoints(config, run_dir).save(model, state)
    other = Checkpoints(dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=128)), run_dir)
    with pytest.raises(ArtifactError) as error:
        other.resume(model)
    assert str(error.value) == (
        f"{RunPaths(run_dir).checkpoints}/00001-000000003/state.json: the checkpoint is within an epoch, at step 3 of "
        "batch size 256 (got train.batch_size=128); resume with train.batch_size=256, or start over without --resume"
    )
    assert Checkpoints(config, run_dir).resume(model)["step"] == 3
    other.save(model, {**state, "epochs": 2, "step": 0})  # at an epoch's end the size may change
    assert Checkpoints(config, run_dir).resume(model)["epochs"] == 2


@pytest.mark.quality
def test_waiting_for_input_is_told_from_computing(trained):
    """Several steps to a call of Python, of batches that are there and of batches that take 30 ms each to be made."""
    run_dir, config = trained
    prepared = Prepared.open(run_dir)
    batches = training_loop.Batches(config, prepared, EncodedData(config, prepared))
    wide = dataclasses.replace(config.model, item_hidden=(512, 256), user_hidden=(512, 256))
    model = training_loop.compile_model(dataclasses.replace(config, model=wide), batches.steps)
    ready = tf.data.Dataset.from_tensors(next(iter(batches.dataset(0)))).repeat()

    def late(number):
        time.sleep(0.03)
        return number

    made = tf.data.Dataset.counter().map(lambda number: tf.numpy_function(late, [number], tf.int64))
    found = []
    for data in (ready, tf.data.Dataset.zip(made, ready).map(lambda _, batch: batch)):
        clock = callbacks.Clock(batch_size=1000)
        model.fit(data, steps_per_epoch=40, verbose=0, callbacks=[clock])
        found.append(clock.figures())
    computing, waiting = found
    assert computing["input_bound_fraction"] < 0.2
    assert waiting["input_bound_fraction"] > 0.5 and waiting["step_ms"] >= 30
    assert computing["examples_per_second"] > 1000 / 0.030 >= waiting["examples_per_second"]


def test_keras_itself_can_train_the_model(trained):
    """The towers are an ordinary `keras.Model`: another optimizer and a plain fit work as anywhere."""
    run_dir, config = trained
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    batches = training_loop.Batches(config, prepared, encoded)
    model = training_loop.compile_model(config, batches.steps)
    model.compile(keras.optimizers.SGD(0.1))
    before = model.get_layer("user_projection").kernel.numpy()
    model.fit(batches.dataset(0), steps_per_epoch=3, verbose=0)
    assert np.abs(model.get_layer("user_projection").kernel.numpy() - before).max() > 0


@pytest.mark.parametrize("rule", [RowwiseAdagrad(weight_decay=0.1), Adagrad(), LazyAdam()], ids=lambda each: each.type)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_operation_of_a_step_touches_a_whole_table(rule, dtype, trained):
    run_dir, config = trained
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, table_dtype=dtype),
        train=dataclasses.replace(config.train, optimizer=AdamW(), table_optimizer=rule),
    )
    batches = training_loop.Batches(config, Prepared.open(run_dir), EncodedData(config, Prepared.open(run_dir)))
    model = training_loop.compile_model(config, batches.steps)
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step).get_concrete_function(next(iter(batches.dataset(0))))
    large = [
        each for each in (*model.variables, *model.optimizer.variables) if each.shape.rank and "/table" in each.name
    ]
    assert len(large) == 3 * (3 if rule.type == "LazyAdam" else 2)
    handles = {id(each.handle) for each in large}
    inner = [placeholder for outer, placeholder in step.graph.captures if id(outer) in handles]
    assert len(inner) == len(large)
    used = {op.type for handle in inner for op in handle.consumers()}
    assert used == {"ResourceGather", "ResourceScatterUpdate", "VarIsInitializedOp"}  # the last by the clock
    # What a GPU lacks, by the registry of kernels, touches no weight: TensorFlow puts it on the host by itself.
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    lacking = {node.op for node in nodes if not runs_on_gpu(node)}
    assert len(nodes) > 500 and lacking == {"Timestamp", "SparseTensorDenseAdd"}  # the clock, and masked candidates


def test_on_a_gpu_all_but_the_clock_runs_there(trained, monkeypatch):
    run_dir, config = trained
    prepared = Prepared.open(run_dir)
    batches = training_loop.Batches(config, prepared, EncodedData(config, prepared))
    logits, hits = np.ones((3, 4), np.float32), np.array([[0, 1], [2, 0]], np.int32)
    for gpu in (False, True):
        monkeypatch.setattr(blockwise_logits, "_has_gpu", lambda gpu=gpu: gpu)
        masked = np.argwhere(blockwise_logits._mask_hits(tf.constant(logits), hits).numpy() < -1e6)
        assert masked.tolist() == hits.tolist()
    model = training_loop.compile_model(config, batches.steps)
    step = tf.function(model.train_step).get_concrete_function(next(iter(batches.dataset(0))))
    graph = step.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert {node.op for node in nodes if not runs_on_gpu(node)} == {"Timestamp"}


def runs_on_gpu(node):
    """Whether TensorFlow has a kernel for the operation and its types on GPUs, or on devices of every kind."""
    return any(
        kernel.device_type in ("GPU", "DEFAULT")
        and all(node.attr[each.name].type in each.allowed_values.list.type for each in kernel.constraint)
        for kernel in kernels.get_registered_kernels_for_op(node.op).kernel
    )


@pytest.mark.parametrize("cores, asked, threads", [(2, None, [1]), (2, "2", []), (1, None, []), (8, None, [])])
def test_on_two_cores_an_operation_has_one_thread_unless_told_otherwise(cores, asked, threads, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", calls.append)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", asked)
    training_loop.share_cores()
    assert calls == threads


def test_a_tensorflow_that_has_begun_keeps_its_threads(monkeypatch):
    tf.constant(1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    before = tf.config.threading.get_intra_op_parallelism_threads()
    training_loop.share_cores()
    assert tf.config.threading.get_intra_op_parallelism_threads() == before


def test_nor_does_what_tensorflow_makes_of_the_steps(trained):
    """Its graph optimizer, of several steps to a call: a table that is read as a whole is copied as a whole."""
    run_dir, config = trained
    batches = training_loop.Batches(config, Prepared.open(run_dir), EncodedData(config, Prepared.open(run_dir)))
    model = training_loop.compile_model(config, batches.steps)
    train = model.make_train_function()
    context.context().enable_run_metadata()
    try:
        train(iter(batches.dataset(0)))
        found = context.context().export_run_metadata()
    finally:
        context.context().disable_run_metadata()
    (steps,) = [
        graph.post_optimization_graph
        for graph in found.function_graphs
        if any(node.op == "ResourceScatterUpdate" for node in graph.post_optimization_graph.node)
    ]
    of_tables = {node.op for node in steps.node if "_embedding_" in node.name}
    assert {"ResourceGather", "SparseSegmentMeanWithNumSegments"} <= of_tables
    assert "ReadVariableOp" not in of_tables
