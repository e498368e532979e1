"""Training with `tf.distribute.ParameterServerStrategy`: tables on servers, steps by workers, in no common time.

A worker reads the rows of its batch from the servers, and sends the rows' gradients there, where the optimizer's state
is. The chief gives out batches, validates, and writes checkpoints, whose files are those of a training
by one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf import resources
from twotower_tf.config import ExperimentConfig, Mined, Queue
from twotower_tf.errors import ConfigError, LostWorkerError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import training_memory, workers
from twotower_tf.train.batch_function import BatchFunction
from twotower_tf.train.batches import Batches
from twotower_tf.train.callbacks import CheckpointCallback
from twotower_tf.train.cluster_task import ClusterTask
from twotower_tf.train.membership import Contact, Membership, choose_address
from twotower_tf.train.scheduled_steps import ScheduledSteps
from twotower_tf.train.workers import Workers

_PROTOCOL = "grpc"
_INTER_OP = 4  # threads of a server at least: with one, a step that waits for another process waits without end
_REASON_WAIT = 10.0  # seconds until the end of a process is noticed, after TensorFlow's error about it


connected = False  # whether TensorFlow has connected this process, as a chief, to others


def check_supported(config: ExperimentConfig) -> None:
    """Refuses what depends on the order of steps, or on a ranking by the whole model; all else works.

    Raises:
        ConfigError: naming the strategies that can do it.
    """
    for each in config.sampling.negatives or ():
        if isinstance(each, Queue | Mined):
            raise ConfigError(
                f"sampling.negatives: invalid {each.type}() for --strategy=parameter_server (workers have no common "
                "order of steps, which this one needs; every loss and all other negatives work); leave it out, or "
                "train with --strategy=single, mirrored or multi_worker"
            )


class Servers(Workers):
    """The workers and servers of a training, as their chief has them."""

    def __init__(self, task: ClusterTask, membership: Membership, strategy: Any, config: ExperimentConfig) -> None:
        super().__init__()
        addresses = task.list_addresses()
        self.servers = len(addresses["ps"])
        self._membership = membership
        self._strategy = strategy
        self._steps = ScheduledSteps(strategy, len(addresses["worker"]), membership, config.train.steps_per_execution)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Creates variables on the servers within a block."""
        return self._strategy.scope()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def name_lost(self) -> Iterator[None]:
        """Turns TensorFlow's errors about another process within a block into a `LostWorkerError`."""
        try:
            with workers.name_lost_worker():
                yield
        except LostWorkerError:
            self._membership.wait_for_loss(_REASON_WAIT)  # names the process
            raise

    def fit(
        self,
        model: TwoTower,
        batches: Batches,
        first: tuple[int, int],
        last: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Trains as `Workers.fit` does, the steps of an epoch in no order."""
        epoch, step = first
        (keep,) = (each for each in callbacks if isinstance(each, CheckpointCallback))
        called = keras.callbacks.CallbackList(
            list(callbacks), model=model, verbose=0, epochs=last, steps=batches.steps - step
        )
        model.stop_training = False
        called.on_train_begin()
        while epoch < last and not model.stop_training:
            self._steps.run_epoch(model, batches, epoch, step, called, keep)
            epoch, step = epoch + 1, 0
        called.on_train_end()

    def list_peak_bytes(self) -> Mapping[str, int]:
        """Returns the largest memory of each other process so far, by its name."""
        return dict(self._membership.peak_bytes)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Lets the other processes end."""
        self._membership.close(done=kind is None)


def _quiet_coordinator() -> None:
    """Hides TensorFlow's own lines about processes that end: this package prints one line for each.

    Its warnings appear whenever a step is traced before it is sent to workers.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
        return
    tf.get_logger().setLevel("CRITICAL")
    show = sys.unraisablehook

    def show_others(error: sys.UnraisableHookArgs) -> None:
        if not isinstance(error.exc_value, tf.errors.OpError):  # of a connection that a thread leaves
            show(error)

    sys.unraisablehook = show_others


def join(
    task: ClusterTask | None,
    config: ExperimentConfig,
    run_dir: Path,
    *,
    resume: bool,
    warm_start: str,
    log: Callable[[str], object],
) -> Workers:
    """Waits for workers and servers, as the chief, and connects TensorFlow to them.

    Args:
        task: the cluster; this process is its chief. Without servers, see `workers.join`.
        config: the experiment, which all processes must have.
        run_dir: the prepared run.
        resume: as of `training_loop.train`.
        warm_start: as of `training_loop.train`.
        log: receives a line where a worker ends or returns.

    Raises:
        ConfigError: for what `check_supported` refuses, and as `Membership` does.
        ArtifactError: where the run is not prepared.
    """
    if task is None or not task.has_servers:
        return workers.join(task, config, run_dir, resume=resume, warm_start=warm_start)
    check_supported(config)
    _quiet_coordinator()
    report = workers.describe_training(task, config, run_dir, resume=resume, warm_start=warm_start)
    membership = Membership(task, report, log)
    addresses = {**task.list_addresses(), "chief": [choose_address(task)]}
    membership.wait_for_all({"addresses": addresses})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(addresses), task_type="chief", task_id=0, rpc_layer=_PROTOCOL
    )
    global connected
    connected = True
    with workers.connection_deadline(task), workers.name_lost_worker():
        strategy = tf.distribute.ParameterServerStrategy(resolver)
    return Servers(task, membership, strategy, config)


def serve(task: ClusterTask, config: ExperimentConfig, run_dir: Path, *, resume: bool, warm_start: str) -> None:
    """Takes part as a worker or a server, until the chief has done the training.

    Args:
        task: the cluster, and which of its processes this one is.
        config: as of `join`.
        run_dir: as of `join`.
        resume: as of `join`.
        warm_start: as of `join`.

    Raises:
        ConfigError: as `join` does.
        LostWorkerError: where the chief ends before, or does not answer.
    """
    check_supported(config)
    job, number = task.place(task.index)
    contact = Contact(task, workers.describe_training(task, config, run_dir, resume=resume, warm_start=warm_start))
    prepared, made, available = Prepared.open(run_dir), None, resources.available_memory()
    needed = training_memory.plan_memory(config, prepared, len(task.list_addresses()["ps"]))
    if job == "ps":
        training_memory.require_server(needed, available)
    else:
        training_memory.require(needed, available)
        made = BatchFunction(Batches(config, prepared, EncodedData(config, prepared)))
    spec = tf.train.ClusterSpec(contact.answer["addresses"])
    config_of_server = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=max(_INTER_OP, resources.count_cpus()))
    server = tf.distribute.Server(spec, job, number, protocol=_PROTOCOL, config=config_of_server)
    contact.wait_for_end()
    del server, made
