"""With parameter servers, an epoch is validated while the next one trains; here both are threads of one process."""

import dataclasses
import shutil
import threading

import numpy as np
import pytest

from twotower_tf.artifacts import RunPaths
from twotower_tf.config import TrainConfig
from twotower_tf.train import training_loop
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.workers import Workers


class Stop(Exception):
    pass


class Training(Workers):
    """A training whose tables would be on a server; it notes the weights that each epoch ends with.

    Attributes:
        validated: the weights of each model that was validated.
        ends: the weights after each epoch.
    """

    servers = 1

    def __init__(self, run_dir, config, recalls, stop_after=None):
        super().__init__()
        self._run_dir, self._config, self._recalls, self._stop_after = run_dir, config, iter(recalls), stop_after
        self._moved = threading.Condition()
        self._steps = 0
        self.validated, self.ends = [], {}

    def fit(self, model, batches, first, last, callbacks):
        self._model, self._per_epoch = model, batches.steps
        super().fit(model, batches, first, last, callbacks)

    def train(self, **options):
        return training_loop.train(
            self._config, self._run_dir, validate=self._validate, progress=self._progress, tensorboard=False,
            workers=self, **options,
        )  # fmt: skip

    def _progress(self, stage, done, total):
        epochs, step = divmod(done, self._per_epoch)
        if not step:
            self.ends[epochs] = [weight.numpy() for weight in self._model.trainable_weights]
        with self._moved:
            self._steps = done
            self._moved.notify_all()
        if self._stop_after is not None and done >= self._stop_after * self._per_epoch + 3:
            raise Stop

    def _validate(self, model):
        """Waits, for a copy of the model, until the training has gone on by two steps."""
        if model is not self._model:
            with self._moved:
                wanted = self._per_epoch * len(self.ends) + 2
                assert self._moved.wait_for(lambda: self._steps >= wanted, 60), "the training waits for its validation"
        self.validated.append([weight.numpy() for weight in model.trainable_weights])
        return {"recall@20": next(self._recalls)}


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def run(trained, tmp_path):
    source, config = trained
    shutil.copytree(source / "prepared", tmp_path / "prepared")
    train = TrainConfig(
        batch_size=256, epochs=9, initial_lr=0.01, monitor="recall@20", patience=2, steps_per_execution=1,
        checkpoint_minutes=0.0001,
    )  # fmt: skip
    return tmp_path, dataclasses.replace(config, train=train)


def test_epochs_are_validated_meanwhile_and_the_best_is_kept(run):
    """The fourth epoch ends the training if it is not the best, as the third is not: it is validated at once."""
    run_dir, config = run
    training = Training(run_dir, config, [0.1, 0.3, 0.2, 0.25])
    document = training.train()
    assert (document["epochs"], document["best_epoch"], document["best"]) == (4, 2, 0.3) and document["stopped_early"]
    assert [each["val_recall@20"] for each in document["history"]] == [0.1, 0.3, 0.2, 0.25]
    for epoch, weights in enumerate(training.validated, 1):
        assert_same(weights, training.ends[epoch])
    assert_same([weight.numpy() for weight in load_model(config, run_dir).trainable_weights], training.ends[2])
    assert {path.name for path in RunPaths(run_dir).checkpoints.iterdir()} == {"00002-000000000", "00004-000000000"}


@pytest.mark.quality
def test_a_validation_that_was_interrupted_is_made_when_the_training_resumes(run):
    run_dir, config = run
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=3))
    stopped = Training(run_dir, config, [0.1, 0.3], stop_after=2)
    with pytest.raises(Stop):
        stopped.train()
    kept = {path.name for path in RunPaths(run_dir).checkpoints.iterdir()}
    assert {"00001-000000000", "00002-000000000"} < kept  # the best so far, and one that is not validated
    resumed = Training(run_dir, config, [0.3, 0.2])
    document = resumed.train(resume=True)
    assert [each["val_recall@20"] for each in document["history"]] == [0.1, 0.3, 0.2]
    assert_same(resumed.validated[0], stopped.ends[2])
    assert_same([weight.numpy() for weight in load_model(config, run_dir).trainable_weights], stopped.ends[2])
