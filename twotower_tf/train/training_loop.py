"""Training: `keras.Model.fit` over batches of encoded rows, restartable at any moment."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf import artifacts, resources
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.features.arrays import EncodedData
from twotower_tf.model import optimizers, two_tower
from twotower_tf.model.embeddings import tables
from twotower_tf.model.losses import registry
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent
from twotower_tf.train import (
    mining,
    parameter_servers,
    readable_rows,
    training_memory,
    warm_start_weights,
    worker_meeting,
)
from twotower_tf.train import workers as workers_together
from twotower_tf.train.batches import Batches
from twotower_tf.train.callbacks import (
    CheckpointCallback,
    Clock,
    Histograms,
    ShowProgress,
    StopOnNaN,
    SumMetrics,
    Validate,
    Validated,
    Validation,
    refuse_to_validate,
    write_projector,
)
from twotower_tf.train.checkpoints import Checkpoints
from twotower_tf.train.cluster_task import ClusterTask
from twotower_tf.train.concurrent_validation import ConcurrentValidation
from twotower_tf.train.sampling_stats import SamplingStats
from twotower_tf.train.tower_vectors import item_vectors
from twotower_tf.train.workers import ALONE, Workers

SCHEMA_VERSION = 1


def train(
    config: ExperimentConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    warm_start: Path | None = None,
    validate: Validate | None = None,
    validated: Validated = lambda epoch, metrics: None,
    tensorboard: bool = True,
    progress: Progress = silent,
    log: Callable[[str], object] = lambda line: None,
    workers: Workers = ALONE,
) -> dict[str, Any]:
    """Trains a prepared run and writes `checkpoints/`, `logs/` and `train.json`.

    Args:
        config: the run's resolved configuration.
        run_dir: a prepared run directory.
        resume: continues after the last checkpoint; without one, starts over.
        warm_start: run directory or bundle version whose weights initialize the model, see `warm_start_weights`.
        validate: returns the model's validation metrics, which choose the best epoch by `train.monitor`.
        validated: receives the epoch, counted from 1, and the metrics of each validation; it may raise.
        tensorboard: writes `logs/`.
        progress: receives the number of finished steps.
        log: receives the samplers' notes and the memory plan, line by line, before memory is allocated.
        workers: those that train together, of which this process is one. `train.batch_size` is the batch of all of
            them. The chief alone validates and writes.

    Returns:
        The content of `train.json`.

    Raises:
        ArtifactError: where the run is not prepared, or a checkpoint is of another configuration.
        ConfigError, DataError: for a model larger than the memory, a batch larger than the data, no positive, or a
            loss that is not a number.
        LostWorkerError: where another worker has ended.
    """
    keras.utils.set_random_seed(config.seed)
    training = _Training(config, Path(run_dir), workers, log, validates=validate is not None)
    training.begin(resume, warm_start)
    callbacks = training.make_callbacks(validate, validated, tensorboard=tensorboard)
    with workers.name_lost():
        training.fit(callbacks, progress)
    return training.finish(tensorboard=tensorboard)


class _Training:
    """What a process trains with: its part of the data, the model, and the checkpoints.

    Attributes:
        needed: the memory plan.
        keep: the callback that saves checkpoints; its state says how far the training is.
        is_validated: whether the chief validates, and has this process get the metrics.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        run_dir: Path,
        workers: Workers,
        log: Callable[[str], object],
        *,
        validates: bool,
    ) -> None:
        """Reads the prepared data, and builds the model where it fits into memory; `validates` is of this process."""
        self.config = config
        self.paths = RunPaths(run_dir)
        self.workers = workers
        self.prepared = Prepared.open(run_dir)
        self.encoded = EncodedData(config, self.prepared)
        self.batches = Batches(config, self.prepared, self.encoded, workers.shard)
        available = resources.available_memory()
        self.needed = training_memory.plan_chief(config, self.prepared, workers.servers, validates, available)
        for line in [*self.batches.samplers.notes, *self.needed.lines()]:
            log(line)
        training_memory.require(self.needed, available)
        with workers.scope():
            self.model = compile_model(config, self.batches.steps, workers)
        self.checkpoints = Checkpoints(config, run_dir, writes=workers.is_chief)
        self.is_validated = workers.from_chief(lambda: validates)
        monitor = config.train.monitor if self.is_validated else ""
        steps = self.batches.steps
        # Mined negatives are ranked by the weights that an epoch begins with: within it they cannot be had again.
        minutes = math.inf if self.batches.samplers.mined is not None else config.train.checkpoint_minutes
        self.keep = CheckpointCallback(self.checkpoints, monitor, config.train.patience, steps, minutes)

    def begin(self, resume: bool, warm_start: Path | None) -> None:
        """Restores the last checkpoint, or removes what an earlier training wrote and begins with new weights."""
        state = self.checkpoints.resume(self.model) if resume else None
        self.workers.require_same_checkpoint(self.paths.checkpoints, state)
        if state is not None:
            self.keep.restore(state)
        else:
            self._start_over(warm_start)
        readable_rows.draw_rows(self.config, self.model, self.encoded, self.batches.samplers)

    def _start_over(self, warm_start: Path | None) -> None:
        """Removes checkpoints and logs; saves a warm start's weights, with which a resumed training begins, too."""
        if warm_start is not None:
            warm_start_weights.start(self.config, self.model, warm_start)
        self.checkpoints.clear()
        if warm_start is not None:
            self.checkpoints.save(self.model, self.keep.state)
        if self.workers.is_chief:
            shutil.rmtree(self.paths.logs, ignore_errors=True)

    def make_callbacks(
        self, validate: Validate | None, validated: Validated, *, tensorboard: bool
    ) -> list[keras.callbacks.Callback]:
        """Returns the callbacks of all epochs in the order in which they are called; see `train`."""
        train, workers = self.config.train, self.workers
        callbacks: list[keras.callbacks.Callback] = [SumMetrics(workers)] if workers.strategy is not None else []
        if validate is not None and self.needed.copied:
            logs = self.paths.logs if tensorboard else None
            callbacks.append(ConcurrentValidation(self.config, validate, validated, self.keep, self.checkpoints, logs))
        else:
            validate = validate or (refuse_to_validate if self.is_validated else None)
            callbacks.append(Validation(validate, validated, train.evaluate_every, train.epochs, workers))
        if tensorboard and workers.is_chief:
            callbacks += _make_tensorboard(self.batches, self.encoded, self.paths.logs)
        return [*callbacks, self.keep]

    def fit(self, callbacks: Sequence[keras.callbacks.Callback], progress: Progress) -> None:
        """Runs what is left of the epochs: first the rest of an interrupted one, then all others."""
        batches, keep, last = self.batches, self.keep, self.config.train.epochs
        mined = batches.samplers.mined
        while keep.state["epochs"] < last and not keep.state["stopped"]:
            first, step = keep.state["epochs"], keep.state["step"]
            if mined is not None and first:
                mining.rank(self.model, self.encoded, mined)
            shown = ShowProgress(progress, batches.steps, last, step)
            timed = Clock(batches.events)
            end = first + 1 if mined is not None else last
            self.workers.fit(self.model, batches, (first, step), end, [shown, timed, StopOnNaN(step), *callbacks])

    def finish(self, *, tensorboard: bool) -> dict[str, Any]:
        """Returns the content of `train.json`; the chief writes it, restores the best epoch, and shows its vectors."""
        if self.workers.is_chief:
            self.checkpoints.restore_best(self.model)
            if tensorboard:
                vectors = item_vectors(self.model, self.encoded)
                write_projector(self.paths.logs, vectors, self.prepared.items())
        document = _report(self.config, self.keep.state, self.batches, self.needed)
        if self.workers.is_chief:
            if others := self.workers.list_peak_bytes():
                document["processes_peak_rss_bytes"] = dict(others)
            artifacts.write_json(self.paths.train, document)
        return document


def train_with_chief(
    config: ExperimentConfig, run_dir: Path, cluster: ClusterTask, *, resume: bool, source: str
) -> dict[str, Any]:
    """Trains as one of the processes that are not the chief, which holds and writes the run directory.

    Args:
        config: as of `train`.
        run_dir: as of `train`.
        cluster: the workers, and which of them this process is.
        resume: as of `train`.
        source: `warm_start` of `train`, "" for none.
    """
    if config.data.train_on_valid:
        worker_meeting.wait_for_chief(cluster)  # which prepares the data of a final fit before
    if cluster.has_servers:
        parameter_servers.serve(cluster, config, run_dir, resume=resume, warm_start=source)
        return artifacts.read_json(RunPaths(run_dir).train, "run directory")
    joined = workers_together.join(cluster, config, run_dir, resume=resume, warm_start=source)
    return train(config, run_dir, resume=resume, warm_start=Path(source) if source else None, workers=joined)


def _make_tensorboard(batches: Batches, encoded: EncodedData, logs: Path) -> list[keras.callbacks.Callback]:
    """Returns what writes TensorBoard's files."""
    return [
        SamplingStats(batches, encoded, logs / "train"),
        keras.callbacks.TensorBoard(logs, write_graph=True, update_freq="epoch"),
        Histograms(logs / "train"),
    ]


def share_cores() -> None:
    """Sets one intra-op thread on two cores, as inter-op parallelism already uses both.

    Splitting an operation of 0.1 ms costs as much as it saves, and a step takes a sixth more CPU time.
    `TF_NUM_INTRAOP_THREADS` takes precedence, and a TensorFlow that has run an operation keeps its threads.
    """
    if "TF_NUM_INTRAOP_THREADS" not in os.environ and resources.count_cpus() == 2:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)


def compile_model(config: ExperimentConfig, steps_per_epoch: int, workers: Workers = ALONE) -> TwoTower:
    """Compiles the model with its loss, metrics and optimizer.

    Args:
        config: the experiment.
        steps_per_epoch: batches per epoch.
        workers: those that train together.
    """
    model = two_tower.build(config, max(1, workers.servers))
    model.strategy = workers.strategy
    optimizer = optimizers.make_optimizer(config.train, steps_per_epoch, config.seed)
    model.compile(
        optimizer,
        weighted_metrics=registry.layer_class(config.loss).training_metrics(),
        # A collective operation within a loop must have tensors of the same shape in every round.
        steps_per_execution=config.train.steps_per_execution if workers.strategy is None else 1,
    )
    optimizer.build(model.trainable_variables)  # before the first step, whose variables would be the strategy's
    return model


def _report(
    config: ExperimentConfig, state: dict[str, Any], batches: Batches, needed: training_memory.MemoryPlan
) -> dict[str, Any]:
    last = state["history"][-1]  # the clock's figures as they were when the last epoch ended, resumed or not
    return {
        "schema_version": SCHEMA_VERSION,
        "config_fingerprint": configuration.fingerprint(config),
        **{name: last[name] for name in Clock.FIGURES},
        "examples": batches.examples,
        "epochs": state["epochs"],
        "best_epoch": state["best_epoch"],
        "best": state["best"],
        "stopped_early": state["stopped"],
        "table_rows": {name: table.rows for name, table in tables(config).items()},
        "planned_bytes": needed.total,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "history": state["history"],
    }
