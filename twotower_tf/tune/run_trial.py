"""Runs one trial of a search: a training that reports its validations and may be ended early."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.tune.trial_record import Outcome, TrialRecord, import_optuna

# Receives an epoch, counted from 1, and the value of `train.monitor` after it. It raises where the trial is to end.
Report = Callable[[int, float], None]
# Trains the run in a directory; returns the best value, its epoch, and the number of epochs.
Objective = Callable[[ExperimentConfig, Path, Report], tuple[float, int, int]]


@dataclass(frozen=True)
class Task:
    """A trial to run.

    Attributes:
        number: of the trial.
        search: directory of the search.
        directory: run directory of the trial, with its configuration; its prepared data may be another run's.
        objective: what trains it.
    """

    number: int
    search: Path
    directory: Path
    objective: Objective


def run_trial(task: Task) -> Outcome:
    """Runs a trial to its end; whatever it raises is its outcome."""
    started = time.monotonic()
    pruned = import_optuna().TrialPruned
    try:
        trial = TrialRecord(task.search, configuration.load_run(task.search)).follow(task.number)

        def report(epoch: int, value: float) -> None:
            trial.report(value, epoch)
            if trial.should_prune():
                raise pruned

        value, best_epoch, epochs = task.objective(configuration.load_run(task.directory), task.directory, report)
    except pruned:
        return Outcome("pruned", seconds=time.monotonic() - started)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome("failed", seconds=time.monotonic() - started, error=text)
    return Outcome("finished", value, best_epoch, epochs, time.monotonic() - started)


def train_trial(config: ExperimentConfig, run_dir: Path, report: Report) -> tuple[float, int, int]:
    """Trains a trial from its last checkpoint on; its weights are removed, as the best trial is trained again by `run`.

    Raises:
        TwoTowerError: as of a training.
    """
    import tf_keras as keras

    from twotower_tf.evaluate.validation import make_validator
    from twotower_tf.features.arrays import EncodedData
    from twotower_tf.prepare.prepared import Prepared
    from twotower_tf.train import training_loop

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.backend.clear_session()
    prepared = Prepared.open(run_dir)
    validate = make_validator(config, prepared, EncodedData(config, prepared))
    monitor = config.train.monitor

    def validated(epoch: int, metrics: dict[str, float]) -> None:
        report(epoch, metrics[monitor])

    weights = RunPaths(run_dir).checkpoints
    try:
        figures: dict[str, Any] = training_loop.train(
            config, run_dir, resume=True, validate=validate, validated=validated, tensorboard=False
        )
    except Exception:  # an interrupted trial goes on
        shutil.rmtree(weights, ignore_errors=True)
        raise
    shutil.rmtree(weights, ignore_errors=True)
    return figures["best"], figures["best_epoch"], figures["epochs"]
