"""The training loop over workers that compute steps on their own: batches by number, each by whichever worker is free.

`tf.distribute.coordinator.ClusterCoordinator` gives a worker a range of batches. Where the worker ends, another one
gets the range again, so that some of its steps may be made twice.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf.model.two_tower import TwoTower
from twotower_tf.train import batch_function
from twotower_tf.train.batches import Batches
from twotower_tf.train.callbacks import CheckpointCallback
from twotower_tf.train.membership import Membership

_RANGES = 4  # of an epoch for each worker, at least: with few, some workers wait for the last one
_AHEAD = 2  # ranges of each worker that are given out before their turn
_POLL = 0.5  # seconds between looks at who is there

Pending = deque[tuple[int, int, Any]]  # first step, end, and its result to come


class ScheduledSteps:
    """Runs the epochs of one training."""

    def __init__(self, strategy: Any, workers: int, membership: Membership, steps_per_range: int) -> None:
        """Prepares to give out ranges of so many steps at most to `workers`."""
        self._strategy = strategy
        self._workers = workers
        self._membership = membership
        self._steps = steps_per_range
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        self._traced: tuple[TwoTower, Any] | None = None
        self._fetched: queue.Queue[Any] = queue.Queue()
        self._to_fetch: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._fetch, daemon=True).start()

    def run_epoch(
        self,
        model: TwoTower,
        batches: Batches,
        epoch: int,
        first_step: int,
        callbacks: keras.callbacks.CallbackList,
        keep: CheckpointCallback,
    ) -> None:
        """Trains from a step of an epoch to its end.

        Args:
            model: built within the strategy's scope.
            batches: the training rows.
            epoch: from 0.
            first_step: from 0.
            callbacks: what Keras would call; they see ranges as executions of several steps.
            keep: the one of them that saves checkpoints: within the epoch while no worker computes.

        Raises:
            LostWorkerError: where the training cannot go on.
        """
        compute = self._trace(model, batches)
        model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        pending: Pending = deque()
        step, size = first_step, max(1, min(self._steps, batches.steps // (_RANGES * self._workers)))
        while step < batches.steps or pending:
            while step < batches.steps and self._may_go_on(pending, keep):
                stop, begin = min(step + size, batches.steps), epoch * batches.steps
                numbers = tf.constant(begin + step, tf.int64), tf.constant(begin + stop, tf.int64)
                result = self._coordinator.schedule(compute, args=numbers)
                self._to_fetch.put(result)
                pending.append((step, stop, result))
                step = stop
            begun, ended, _ = pending[0]
            callbacks.on_train_batch_begin(begun - first_step)
            loss = self._wait()
            pending.popleft()
            keep.saves_within = not pending
            callbacks.on_train_batch_end(ended - 1 - first_step, {"loss": loss})
        logs = {name: float(value) for name, value in model.get_metrics_result().items()}
        callbacks.on_epoch_end(epoch, logs)

    def _may_go_on(self, pending: Pending, keep: CheckpointCallback) -> bool:
        """Tests whether to give out another range; none while a checkpoint waits for those that are out."""
        return not pending or (len(pending) < _AHEAD * self._workers and not keep.is_due())

    def _trace(self, model: TwoTower, batches: Batches) -> Any:
        """Returns the compiled function that computes a range of steps, and returns the epoch's mean loss so far."""
        if self._traced is not None and self._traced[0] is model:
            return self._traced[1]
        signature, share = batches.signature(), 1.0 / self._workers
        number = tf.TensorSpec([], tf.int64)

        def compute_step(number: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
            begin = tf.timestamp()
            with tf.control_dependencies([begin]):
                data = batch_function.call(number, stop, signature)
            with tf.control_dependencies(tf.nest.flatten(data)):
                model.input_wait.assign_add((tf.timestamp() - begin) * share)
            return self._strategy.run(model.update, args=(data,))["loss"]

        def compute_range(first: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
            return tf.while_loop(
                lambda number, _: number < stop,
                lambda number, _: (number + 1, compute_step(number, stop)),
                (first, tf.constant(0.0)),
                parallel_iterations=1,
            )[1]

        with self._strategy.scope():
            # Keras creates metrics with the first step, and none may be created within a loop.
            tf.function(compute_step, input_signature=[number, number], autograph=False).get_concrete_function()
        compiled = tf.function(compute_range, input_signature=[number, number], autograph=False)
        self._traced = model, compiled
        return compiled

    def _wait(self) -> float:
        """Waits for the result of the oldest range, for as long as those that are needed are there."""
        while True:
            try:
                found = self._fetched.get(timeout=_POLL)
            except queue.Empty:
                self._membership.check()
                continue
            if isinstance(found, tf.errors.CancelledError):
                self._coordinator.done()  # raises the error because of which all else was cancelled
            if isinstance(found, BaseException):
                raise found
            return float(found)

    def _fetch(self) -> None:
        while True:
            result = self._to_fetch.get()
            try:
                self._fetched.put(result.fetch())
            except BaseException as error:  # for the thread that waits
                self._fetched.put(error)
