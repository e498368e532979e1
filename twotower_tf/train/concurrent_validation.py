"""Validates the model of an epoch while the next one trains: on a copy, with the weights of the epoch's checkpoint."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import tensorflow as tf

from twotower_tf.config import ExperimentConfig
from twotower_tf.model import two_tower
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.train.callbacks import CheckpointCallback, Validate, Validated, Validation
from twotower_tf.train.checkpoints import Checkpoints


class ConcurrentValidation(Validation):
    """Validates in a thread of the process that gives out the steps, which other processes compute.

    An epoch's metrics are known when the next one ends. An epoch after which the training may end, as the last one or
    as it is out of `train.patience` unless it is the best, is validated at once: epochs and best epoch are those of
    `Validation`.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        validate: Validate,
        validated: Validated,
        keep: CheckpointCallback,
        checkpoints: Checkpoints,
        logs: Path | None,
    ) -> None:
        """Configures a validation that precedes `keep`, which saves `checkpoints`; `logs` are TensorBoard's."""
        super().__init__(validate, validated, config.train.evaluate_every, config.train.epochs)
        self._concurrent = validate
        self._config = config
        self._keep = keep
        self._checkpoints = checkpoints
        self._logs = logs
        self._copy: TwoTower | None = None
        self._thread = ThreadPoolExecutor(1)
        self._metrics: Future[dict[str, float]] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Begins to validate the epoch before, also where its validation was interrupted."""
        keep = self._keep
        if not keep.state["epochs"] or keep.is_validated() or not self._is_due(keep.state["epochs"]):
            return
        if not self._checkpoints.has_weights(keep.state["epochs"]):
            return  # of an interrupted training that had validated it, or did not keep it
        if self._copy is None:
            self._copy = two_tower.build(self._config)
        keep.awaited = keep.state["epochs"]
        self._metrics = self._thread.submit(self._validate_copy, self._copy, keep.awaited)

    def _validate_copy(self, copy: TwoTower, epochs: int) -> dict[str, float]:
        self._checkpoints.restore_weights(copy, epochs)
        return self._concurrent(copy)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds the metrics of the epoch before; validates this one where the training may end with it."""
        if self._metrics is not None:
            metrics, self._metrics = self._metrics.result(), None
            self._keep.add_validation(metrics)
            self._keep.awaited = 0
            self._write(epoch, metrics)
            self._validated(epoch, metrics)
        if epoch + 1 == self._last or self._keep.may_stop(epoch + 1):
            super().on_epoch_end(epoch, logs)

    def _write(self, epochs: int, metrics: dict[str, float]) -> None:
        """Writes what Keras's callback for TensorBoard would, of an epoch counted from 1."""
        if self._logs is None:
            return
        with tf.summary.create_file_writer(str(self._logs / "validation")).as_default():
            for name, value in metrics.items():
                tf.summary.scalar(f"epoch_{name}", value, epochs - 1)
