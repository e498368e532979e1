"""Mined negatives: the ranking is the model's, comes before the epoch, and a stopped run goes on as if undisturbed."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests.model.filled import fill_tables
from twotower_tf.config import InBatch, InBatchSoftmax, Mined, Queue, SamplingConfig, TrainConfig, Uniform
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling.row_sampler import PositivesBatch
from twotower_tf.train import mining, training_loop
from twotower_tf.train.batches import Batches
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.tower_vectors import item_vectors, user_vectors


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the prepared run and a configuration with mined and queued negatives."""
    run_dir, config = trained
    shutil.copytree(run_dir / "prepared", tmp_path / "prepared")
    shutil.copy(run_dir / "config.json", tmp_path)
    kinds = (InBatch(), Uniform(per_positive=10, shared=True), Queue(size=300), Mined(ranks=(5, 20), per_positive=2))
    train = TrainConfig(batch_size=512, epochs=2, initial_lr=0.01, monitor="")
    return tmp_path, dataclasses.replace(config, sampling=SamplingConfig(kinds), loss=InBatchSoftmax(), train=train)


def weights(config, run_dir):
    return [weight.numpy() for weight in load_model(config, run_dir).trainable_weights]


def test_the_newest_row_of_each_user():
    keys = {
        "user_row": np.array([4, 2, 4, 2, 4, 7]),
        "label": np.array([1, 1, 1, 1, 0, 0]),
        "timestamp": np.array([9, 5, 3, 5, 99, 1]),
    }
    users, rows = mining.newest_rows(keys)
    assert users.tolist() == [2, 4] and rows.tolist() == [3, 0]


def test_the_ranking_is_the_models(run):
    run_dir, config = run
    encoded = EncodedData(config, Prepared.open(run_dir))
    batches = Batches(config, Prepared.open(run_dir), encoded)
    model = fill_tables(training_loop.compile_model(config, batches.steps))
    mined, positives = batches.samplers.mined, batches.samplers.positives
    mining.rank(model, encoded, mined)
    users, rows = mining.newest_rows(encoded.keys("train"))
    scores = user_vectors(model, encoded, "train", rows[:3]) @ item_vectors(model, encoded).T
    for user, row, score in zip(users, rows, scores, strict=False):
        liked = positives.of(int(user))
        score[liked] = -np.inf
        best = -np.sort(-score)[4:20]
        drawn = mined.draw(np.random.default_rng(0), PositivesBatch(np.array([row]), np.array([user]), liked[:1]), 300)
        # By score: towers that nobody has trained have items of the same vector, which no order is stated for.
        np.testing.assert_allclose(-np.sort(-score[np.unique(drawn)]), best, atol=1e-6)


@pytest.mark.quality
def test_a_stopped_training_goes_on_to_the_same_end(run, tmp_path_factory):
    run_dir, config = run
    other = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(run_dir, other, dirs_exist_ok=True)
    training_loop.train(config, other)

    class Stop(Exception):
        pass

    def stop_in_the_second_epoch(stage, done, total):
        if stage == "train" and done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        training_loop.train(config, run_dir, progress=stop_in_the_second_epoch)
    document = training_loop.train(config, run_dir, resume=True)
    assert [epoch["epoch"] for epoch in document["history"]] == [1, 2]
    for got, expected in zip(weights(config, run_dir), weights(config, other), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
