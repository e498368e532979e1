"""The workers that train together, as one of them sees them: `tf.distribute.MultiWorkerMirroredStrategy` between them.

Each worker has one device, all weights, and a part of every batch. What they exchange within a step is in
`model.replicas`; here is what they exchange between steps.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras as keras

from twotower_tf import __version__, artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ArtifactError, ConfigError, LostWorkerError
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.train.batches import WHOLE, Batches, Shard
from twotower_tf.train.cluster_task import ClusterTask
from twotower_tf.train.worker_meeting import Report, meet

Value = TypeVar("Value")
_DIGITS = 12  # of a hash, in an error

# What TensorFlow raises where a worker has ended, is unreachable or does not answer in time.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """The workers of a training; `ALONE` where there is one.

    Attributes:
        shard: which worker this is, of how many.
        strategy: computes steps together; None for one worker.
        servers: parameter servers, each of which has a part of every embedding table; 0 for tables in this process.
    """

    servers = 0

    def __init__(self, shard: Shard = WHOLE, strategy: tf.distribute.Strategy | None = None) -> None:
        self.shard = shard
        self.strategy = strategy

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes files, validates and reports."""
        return self.shard.index == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Creates a model's variables where they are to be, within a block."""
        return contextlib.nullcontext()

    def fit(
        self,
        model: TwoTower,
        batches: Batches,
        first: tuple[int, int],
        last: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Trains a compiled model.

        Args:
            model: of `training_loop.compile_model`.
            batches: this worker's part of the batches.
            first: epoch and step, from 0, to begin with; after a later step, to the end of this epoch alone.
            last: the number of epochs in all.
            callbacks: of Keras.
        """
        epoch, step = first
        model.fit(
            batches.dataset(epoch, step),
            initial_epoch=epoch,
            epochs=epoch + 1 if step else last,
            steps_per_epoch=batches.steps - step,
            verbose=0,
            callbacks=list(callbacks),
        )

    def list_peak_bytes(self) -> Mapping[str, int]:
        """Returns the largest memory of other processes of the training, by their names."""
        return {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the training together."""

    def name_lost(self) -> contextlib.AbstractContextManager[None]:
        """Turns TensorFlow's errors about another worker within a block into a `LostWorkerError`."""
        return contextlib.nullcontext() if self.strategy is None else name_lost_worker()

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Adds up `[n]` float64 of all workers, which all call it."""
        if self.strategy is None:
            return values
        with self.name_lost():
            summed = self.strategy.reduce(tf.distribute.ReduceOp.SUM, tf.constant(values, tf.float64), axis=None)
        return np.asarray(summed)

    def from_chief(self, compute: Callable[[], Value]) -> Value:
        """Returns on all workers, which all call it, what the chief computes: something that JSON can hold."""
        if self.strategy is None:
            return compute()
        text = json.dumps(compute()).encode() if self.is_chief else b""
        length = int(self.sum(np.array([len(text)], np.float64))[0])
        numbers = np.frombuffer(text.ljust(length, b" "), np.uint8).astype(np.float64) * self.is_chief
        return json.loads(self.sum(numbers).astype(np.uint8).tobytes())  # type: ignore[no-any-return]

    def require_same_checkpoint(self, checkpoints: Path, state: dict[str, Any] | None) -> None:
        """Checks that all workers resume from the checkpoint that the chief has.

        Raises:
            ArtifactError: on a worker that found another one.
        """
        found = [0, 0] if state is None else [state["epochs"], state["step"]]
        wanted = self.from_chief(lambda: found)
        if found != wanted:
            raise ArtifactError(
                f"{checkpoints}: worker {self.shard.index} found the checkpoint after {found[0]} epochs and "
                f"{found[1]} steps, worker 0 after {wanted[0]} and {wanted[1]}; give all workers the same run directory"
            )


ALONE = Workers()


def join(
    task: ClusterTask | None, config: ExperimentConfig, run_dir: Path, *, resume: bool, warm_start: str
) -> Workers:
    """Meets the other workers and starts TensorFlow's servers.

    Args:
        task: this process's place in the cluster; None for a training by one worker.
        config: the experiment, which all workers must have.
        run_dir: the prepared run.
        resume: as of `training_loop.train`.
        warm_start: as of `training_loop.train`.

    Raises:
        ConfigError: as `worker_meeting.meet` does; in a process that has computed something with TensorFlow already.
        ArtifactError: where the run is not prepared.
        LostWorkerError: where a worker ends meanwhile.
    """
    if task is None:
        return ALONE
    meet(task, describe_training(task, config, run_dir, resume=resume, warm_start=warm_start))
    if len(task.addresses) == 1:
        return ALONE
    gpus = tf.config.list_physical_devices("GPU")
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=task.timeout)
    try:
        if gpus:  # weights are on one device
            tf.config.set_visible_devices(gpus[task.local_index % len(gpus)], "GPU")
        with connection_deadline(task), name_lost_worker():
            strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    except RuntimeError as error:  # not one of TensorFlow's errors, which are of another class
        raise ConfigError(
            f"cluster: TensorFlow cannot join it: {error}; begin the training in a process that has computed nothing "
            "with TensorFlow yet"
        ) from error
    return Workers(Shard(task.index, len(task.addresses)), strategy)


def describe_training(
    task: ClusterTask, config: ExperimentConfig, run_dir: Path, *, resume: bool, warm_start: str
) -> Report:
    """Returns what must be the same in all processes of a training.

    Raises:
        ArtifactError: where the run is not prepared.
    """
    prepared = PreparedPaths(RunPaths(run_dir).prepared).manifest
    if not prepared.is_file():
        raise ArtifactError(f"{run_dir}: not prepared; run `twotower prepare` first")
    return {
        "twotower_tf": __version__,
        "TensorFlow": tf.__version__,
        "tf_keras": metadata.version("tf-keras"),
        "NumPy": np.__version__,
        "TF_CONFIG addresses": ", ".join(task.addresses),
        **_list_fields(config),
        "prepared data": artifacts.sha256_file(prepared)[:_DIGITS],
        "--resume": str(resume),
        "--warm_start": warm_start or "none",
    }


def _list_fields(config: ExperimentConfig) -> dict[str, str]:
    """Returns all fields but the log's place, which may differ between machines."""
    fields = configuration.flatten(json.loads(configuration.to_json(config)))
    del fields["data.root"]
    return {name: json.dumps(value, ensure_ascii=False) for name, value in fields.items()}


@contextlib.contextmanager
def name_lost_worker() -> Iterator[None]:
    """Turns TensorFlow's errors about another worker into one line.

    Raises:
        LostWorkerError: where a worker has ended or does not answer.
    """
    try:
        yield
    except _LOST as error:
        raise LostWorkerError(
            "cluster: another worker has ended or does not answer; start all workers again with --resume to continue "
            "after the last checkpoint"
        ) from error


@contextlib.contextmanager
def connection_deadline(task: ClusterTask) -> Iterator[None]:
    """Ends the process where TensorFlow's servers do not find each other in time; they would wait for an hour."""

    def end() -> None:
        print(
            f"twotower train: cluster: the processes did not connect within {task.timeout:g} seconds; check that each "
            "reaches the others' ports, and start all of them again",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LostWorkerError.exit_status)

    timer = threading.Timer(task.timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
