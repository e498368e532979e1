"""The memory plan against arithmetic by hand, and against a training that ran."""

import dataclasses
import json

import numpy as np
import pytest

from twotower_tf import resources
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    Adagrad,
    CosineLogitBCE,
    DataConfig,
    Downsample,
    ExperimentConfig,
    FullSoftmax,
    Hash,
    InBatch,
    InBatchSoftmax,
    LazyAdam,
    Mined,
    ModelConfig,
    Numeric,
    Popularity,
    Queue,
    Rejections,
    SamplingConfig,
    SkipAbove,
    TrainConfig,
    Uniform,
)
from twotower_tf.errors import ConfigError
from twotower_tf.sampling.pairs import Pairs
from twotower_tf.sampling.skip_above import SkipAboveSampler
from twotower_tf.train import training_loop, training_memory

CONFIG = ExperimentConfig(
    name="t",
    data=DataConfig(),
    item_features=(Hash("ad", buckets=1_000), Numeric("price")),
    user_features=(Hash("user", buckets=2_000), Hash("city", buckets=500, embedding_dim=4)),
    model=ModelConfig(embedding_dim=8, vector_dim=6, item_hidden=(10,), user_hidden=()),
    loss=CosineLogitBCE(),
    sampling=SamplingConfig((Uniform(per_positive=3),)),
    train=TrainConfig(batch_size=100, monitor=""),
)


def test_the_plan_is_what_one_computes_by_hand():
    plan = training_memory.estimate_memory(CONFIG, train_rows=1_000)
    assert dict(plan.tables) == {
        "item_embedding_8": 1_000 * 8 * 4,
        "user_embedding_4": 500 * 4 * 4,
        "user_embedding_8": 2_000 * 8 * 4,
    }
    # Item tower: 8 + 1 inputs to 10 to 6, with biases; user tower: 8 + 4 inputs to 6.
    weights = 10 * 10 + 11 * 6 + 13 * 6
    assert plan.dense == 2 * 4 * weights
    assert plan.optimizer == 4 * (1_000 + 500 + 2_000) + 2 * 4 * weights  # a number per row of the tables
    # A hundred users of 12 + 6 numbers, four hundred items of 9 + 10 + 6.
    assert plan.activations == 6 * 4 * (100 * 18 + 400 * 25)
    assert plan.data == 61_000
    assert plan.total == 104_000 + plan.optimizer + plan.dense + plan.activations + plan.data + plan.runtime


def test_what_a_batch_compares_is_planned():
    sampling = SamplingConfig((InBatch(), Uniform(per_positive=2), Popularity(per_positive=50, shared=True), Queue(30)))
    config = dataclasses.replace(CONFIG, loss=InBatchSoftmax(), sampling=sampling)
    # 100 users and 100 + 200 + 50 items of the sizes above; each user meets 100 + 50 + 30 columns of 6 numbers.
    scores = 180 * 6 + 100 * 180
    assert training_memory.estimate_memory(config, 1).activations == 6 * 4 * (100 * 18 + 350 * 25 + scores)
    large = dataclasses.replace(config, sampling=SamplingConfig((InBatch(), Queue(2_000_000))))
    # One row's scores at a time: a block can not be smaller.
    assert training_memory.estimate_memory(large, 1).activations == 6 * 4 * (100 * 18 + 100 * 25 + 7 * 2_000_100)


def test_a_catalogue_that_all_rows_are_compared_with_is_planned_and_refused_by_name():
    config = dataclasses.replace(CONFIG, loss=FullSoftmax(), sampling=SamplingConfig())
    # 100 users of 18 numbers; 3,000 items of 9 + 10 + 6 and once more 6 as columns; a block holds all scores.
    activations = 100 * 18 + 3_000 * 25 + 3_000 * 6 + 100 * 3_000
    plan = training_memory.estimate_memory(config, 1_000, items=3_000)
    assert plan.activations == 6 * 4 * activations
    large = training_memory.estimate_memory(config, 1_000, items=50_000_000)  # one row of scores at a time
    with pytest.raises(ConfigError) as error:
        training_memory.require(large, 8 << 30)
    assert str(error.value).startswith("training needs about ") and str(error.value).count("\n") == 0
    assert "Catalogue() compares with all items of the catalogue, which takes 38.4 GB: use loss=" in str(error.value)
    training_memory.require(plan, 8 << 30)


def test_samplers_count():
    sampling = SamplingConfig((Mined(ranks=(11, 20)), Rejections()), downsample=Downsample(), recency_half_life=3.0)
    config = dataclasses.replace(CONFIG, data=DataConfig(label="click"), sampling=sampling)
    # A row: 61, and 12 as a rejection, 44 for thinning, 4 for its weight; a user: ten mined items of 4 bytes, twice.
    assert training_memory.estimate_memory(config, train_rows=1_000, users=50).data == 121_000 + 50 * 80
    # A positive of a run that is continued: 8 bytes in a table of pairs and 4 as an item.
    assert (
        training_memory.estimate_memory(config, train_rows=1_000, users=50, past=10_000).data
        == 121_000 + 50 * 80 + 120_000
    )


def test_passed_over_items_are_counted_as_the_sampler_keeps_them():
    config = dataclasses.replace(
        CONFIG,
        data=DataConfig(label="click", list_id="page", position="place"),
        sampling=SamplingConfig((SkipAbove(),)),
    )
    rows = 6_000
    label = np.arange(rows) % 10 == 9  # in lists of ten, the last is the positive
    users, items, lists = np.arange(rows) // 10, np.arange(rows) % 5_000, np.arange(rows) // 10
    position = (np.arange(rows) % 10).astype(np.float64)
    positives = Pairs(users[label], items[label], rows // 10, 5_000)
    sampler = SkipAboveSampler(positives, users, items, label.astype(np.int8), lists, position)
    kept = sum(each.nbytes for each in vars(sampler).values() if isinstance(each, np.ndarray))
    assert kept == rows * 16 + rows * 9 // 10 * 4  # two places for each row; an item for each that was passed over
    # Its list and position are 16 more; 61 as any row.
    assert training_memory.estimate_memory(config, train_rows=rows).data == rows * (61 + 16 + 16 + 4)


def test_a_model_that_can_not_fit_is_refused_with_advice():
    config = ExperimentConfig(
        name="t",
        data=DataConfig(),
        item_features=(Hash("ad", buckets=50_000_000),),
        user_features=(Hash("user", buckets=1_000),),
        model=ModelConfig(embedding_dim=16, vector_dim=32, item_hidden=(128, 64), user_hidden=(128, 64)),
        loss=CosineLogitBCE(),
    )
    plan = training_memory.estimate_memory(config, train_rows=0)
    training_memory.require(plan, plan.total)
    with pytest.raises(ConfigError) as error:
        training_memory.require(plan, 4_000_000_000)
    assert str(error.value) == (
        "training needs about 4.5 GB of memory and 4.0 GB is available; the largest table, item_embedding_16, takes "
        "3.2 GB and its optimizer state 200.0 MB: lower buckets= or embedding_dim= of its features, or "
        "train.batch_size, or --set model.table_dtype=bfloat16"
    )


def test_other_optimizers_and_types_of_tables_are_counted():
    def planned(rule, dtype="float32"):
        config = dataclasses.replace(
            CONFIG,
            model=dataclasses.replace(CONFIG.model, table_dtype=dtype),
            train=dataclasses.replace(CONFIG.train, table_optimizer=rule),
        )
        return training_memory.estimate_memory(config, train_rows=0)

    # The tables hold 1,000 x 8, 500 x 4 and 2,000 x 8 numbers: 26,000.
    assert sum(planned(Adagrad()).table_optimizer.values()) == 4 * 26_000
    assert sum(planned(LazyAdam()).table_optimizer.values()) == 8 * 26_000
    half = planned(LazyAdam(), "bfloat16")
    assert sum(half.tables.values()) == 2 * 26_000 and sum(half.table_optimizer.values()) == 8 * 26_000


def test_a_training_that_can_not_fit_ends_before_any_memory_is_taken(trained, monkeypatch):
    run_dir, config = trained
    monkeypatch.setattr(resources, "available_memory", lambda: 5_000_000)
    monkeypatch.setattr(training_loop, "compile_model", None)
    lines = []
    with pytest.raises(ConfigError, match=r"^training needs about 94.* MB of memory and 5\.0 MB is available; "):
        training_loop.train(config, run_dir, log=lines.append)
    assert lines[-1].startswith("memory: total")
    assert (RunPaths(run_dir).checkpoints / "00001-000000000").is_dir()  # the model before is still there


def test_a_training_tells_its_plan(trained):
    run_dir, config = trained
    report = json.loads(RunPaths(run_dir).train.read_text())
    rows = json.loads((RunPaths(run_dir).prepared / "manifest.json").read_text())["splits"]["train"]["rows"]
    assert report["planned_bytes"] == training_memory.estimate_memory(config, rows).total
    lines = training_memory.estimate_memory(config, rows).lines()
    assert lines[0].split() == ["memory:", "table", "item_embedding_4", "0.3", "kB"]
    assert lines[-1].startswith("memory: total")
