"""Keras callbacks of the training: timing, validation, checkpoints, progress, TensorBoard histograms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tf_keras as keras
from tensorboard.plugins import projector

from twotower_tf.characters import escape_line
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.progress import Progress
from twotower_tf.train.checkpoints import Checkpoints
from twotower_tf.train.workers import ALONE, Workers

Validate = Callable[[TwoTower], dict[str, float]]
Validated = Callable[[int, dict[str, float]], object]

_VALIDATED = "val_"  # begins the names of validation metrics in the logs
_WARM_UP_STEPS = 10  # tracing and first touches of memory are outside the clock
_HISTOGRAM_ROWS = 10_000
_PROJECTED_ITEMS = 10_000  # what the projector shows fluently


class Clock(keras.callbacks.Callback):
    """Times the steps after the first ten; evaluation, between epochs, is outside the clock."""

    FIGURES = ("examples_per_second", "step_ms", "input_bound_fraction")

    def __init__(self, batch_size: float) -> None:
        """`batch_size` is the number of a step's events, on average."""
        super().__init__()
        self._supports_tf_logs = True
        self._batch_size = batch_size
        self._begin = 0.0
        self._waited = 0.0
        self._last = -1
        self._seen = 0
        self._steps: list[int] = []
        self._durations: list[float] = []
        self._waits: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Steps are counted from 0 again."""
        self._last = -1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Records the start time; time spent in Python since the last step is not input wait."""
        self._begin = time.time()
        self._waited = float(self.model.input_wait)
        self.model.step_end.assign(self._begin)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes how long the steps since took, one or several, and how much of it they waited."""
        steps, self._last = batch - self._last, batch
        self._seen += steps
        if self._seen - steps < _WARM_UP_STEPS:
            return
        self._steps.append(steps)
        self._durations.append(time.time() - self._begin)
        self._waits.append(float(self.model.input_wait) - self._waited)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Adds the figures so far to the epoch's scalars."""
        if logs is not None:
            logs.update(self.figures())

    def figures(self) -> dict[str, float]:
        """Returns `examples_per_second`, `step_ms` (median), `input_bound_fraction` (share of time spent waiting)."""
        if not self._durations:
            return dict.fromkeys(self.FIGURES, 0.0)
        total = sum(self._durations)
        return {
            "examples_per_second": self._batch_size * sum(self._steps) / total,
            "step_ms": 1000.0 * float(np.median(np.divide(self._durations, self._steps))),
            "input_bound_fraction": min(1.0, sum(self._waits) / total),
        }


class StopOnNaN(keras.callbacks.Callback):
    """Ends training with an error as soon as the loss is not finite; such a model is never saved."""

    def __init__(self, first_step: int = 0) -> None:
        """`first_step` is where the first epoch begins."""
        super().__init__()
        self._supports_tf_logs = True
        self._first_step = first_step
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes the epoch, for the message."""
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Counts the next epoch's steps from its first one."""
        self._first_step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Checks the mean loss of the epoch so far, which stays non-finite once that of a step was.

        Raises:
            DataError: where it is not finite.
        """
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = self._first_step + batch + 1
            raise DataError(
                f"training: the loss is {loss} at step {step} of epoch {self._epoch + 1}, and the model is not saved; "
                "lower train.initial_lr or train.table_optimizer.initial_lr, add train.warmup_steps, "
                "or give huge numbers transform='log1p'"
            )


def refuse_to_validate(model: TwoTower) -> dict[str, float]:
    """Raises an error: `validate` of a worker that gets its metrics from the chief."""
    raise AssertionError("only the chief validates")


class SumMetrics(keras.callbacks.Callback):
    """Adds up the metrics of several workers after an epoch: all of them are sums."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Replaces each worker's metrics by those of all."""
        variables = [variable for metric in self.model.metrics for variable in metric.variables]
        own = [np.asarray(variable.numpy(), np.float64) for variable in variables]
        summed = self._workers.sum(np.concatenate([each.reshape(-1) for each in own]))
        parts = np.split(summed, np.cumsum([each.size for each in own])[:-1])
        for variable, part in zip(variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))
        if logs is not None:
            logs.update(self.model.get_metrics_result())


class Validation(keras.callbacks.Callback):
    """Validates the model after epochs and adds its metrics, prefixed `val_`, to the logs."""

    def __init__(
        self, validate: Validate | None, validated: Validated, every: int, last: int, workers: Workers = ALONE
    ) -> None:
        """`validated` receives the epoch, counted from 1, and its metrics; `every` and `last` are epochs.

        Of several workers the chief validates, and all get its metrics.
        """
        super().__init__()
        self._workers = workers
        self._validate = validate
        self._validated = validated
        self._every = every
        self._last = last

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Runs the validation every so many epochs, and after the last."""
        validate = self._validate
        if validate is None or logs is None or not self._is_due(epoch + 1):
            return
        metrics = self._workers.from_chief(lambda: validate(self.model))
        logs.update(_prefixed(metrics))
        self._validated(epoch + 1, metrics)

    def _is_due(self, epochs: int) -> bool:
        """Tests whether an epoch, counted from 1, is validated."""
        return not epochs % self._every or epochs == self._last


def _prefixed(metrics: dict[str, float]) -> dict[str, float]:
    """Returns validation metrics by their names in the logs."""
    return {f"{_VALIDATED}{name}": float(value) for name, value in metrics.items()}


class CheckpointCallback(keras.callbacks.Callback):
    """Saves checkpoints after every epoch and within long ones, tracks the best epoch, and stops early.

    Attributes:
        state: JSON saved with the weights; `restore` replaces it by that of a checkpoint.
        saves_within: whether a checkpoint may be saved within an epoch now, and metrics be read: not while workers
            compute that do not wait for each other.
        awaited: epochs after which a checkpoint was saved whose validation goes on, and which is kept until then; 0
            without one.
    """

    def __init__(self, checkpoints: Checkpoints, monitor: str, patience: int, steps: int, minutes: float) -> None:
        """Configures `steps` per epoch and `minutes` between checkpoints within an epoch (infinity: none)."""
        super().__init__()
        self._supports_tf_logs = True
        self._checkpoints = checkpoints
        self._monitor = f"{_VALIDATED}{monitor}" if monitor else ""
        self._patience = patience
        self._steps = steps
        self._seconds = 60.0 * minutes
        self._saved = time.monotonic()
        self._interrupted: dict[str, Any] | None = None
        self._first_step = 0
        self.saves_within = True
        self.awaited = 0
        self.state: dict[str, Any] = {
            "epochs": 0, "step": 0, "best_epoch": 0, "best": None, "history": [], "stopped": False
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from the state of a checkpoint.

        Raises:
            ConfigError: if another metric chose its best epoch, as values of two metrics cannot be compared.
        """
        best, epoch = state["best"], state["best_epoch"]
        if self._monitor and best is not None and state["history"][epoch - 1].get(self._monitor) != best:
            raise ConfigError(
                f"train.monitor: invalid value {self._monitor.removeprefix(_VALIDATED)!r} (expected the metric that "
                f"chose epoch {epoch}, the best so far); resume with that metric, or start over without --resume"
            )
        self.state = {name: state[name] for name in self.state}
        self.state["stopped"] = self._out_of_patience(self.state)  # which may be another one now
        self._first_step = self.state["step"]
        self._interrupted = self.state if self._first_step else None

    def is_due(self) -> bool:
        """Tests whether the last checkpoint is old enough for one within an epoch."""
        return time.monotonic() - self._saved >= self._seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Saves a checkpoint if the last one is old enough."""
        if self._interrupted is not None and self.saves_within:
            self._checkpoints.add_metrics(self.model, self._interrupted)
            self._interrupted = None
            if logs is not None:
                logs.update(self.model.get_metrics_result())
        step = self._first_step + batch + 1
        if step < self._steps and self.saves_within and self.is_due():
            self._save({**self.state, "step": step})

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Saves a checkpoint; an epoch without validation is the best only if no epoch has been validated."""
        logs = logs or {}
        value = logs.get(self._monitor) if self._monitor else None
        state = self.state
        better = self._is_better(value)
        best = better or not self._monitor or (value is None and state["best"] is None)
        best_epoch = epoch + 1 if best else state["best_epoch"]
        self.state = {
            "epochs": epoch + 1,
            "step": 0,
            "best_epoch": best_epoch,
            "best": value if better else state["best"],
            "history": [*state["history"], {"epoch": epoch + 1, **{k: float(v) for k, v in logs.items()}}],
        }
        self.state["stopped"] = self._out_of_patience(self.state)
        self._first_step = 0
        self._save(self.state)
        if self.state["stopped"]:
            self.model.stop_training = True

    def is_validated(self) -> bool:
        """Tests whether the last finished epoch has validation metrics."""
        return any(name.startswith(_VALIDATED) for name in self.state["history"][-1])

    def may_stop(self, epochs: int) -> bool:
        """Tests whether patience ends the training after so many epochs if the last of them is not the best."""
        return bool(self._patience) and epochs - self.state["best_epoch"] >= self._patience

    def add_validation(self, metrics: dict[str, float]) -> None:
        """Adds the validation metrics of the last finished epoch, which are known only now."""
        state, last = self.state, {**self.state["history"][-1], **_prefixed(metrics)}
        self.state = {**state, "history": [*state["history"][:-1], last]}
        value = last.get(self._monitor)
        if self._is_better(value):
            self.state |= {"best_epoch": state["epochs"], "best": value}

    def _is_better(self, value: float | None) -> bool:
        return value is not None and (self.state["best"] is None or value > self.state["best"])

    def _out_of_patience(self, state: dict[str, Any]) -> bool:
        """Returns whether to stop early; only an epoch that was validated can end the training."""
        validated = bool(state["history"]) and self._monitor in state["history"][-1]
        return bool(self._patience) and validated and state["epochs"] - state["best_epoch"] >= self._patience

    def _save(self, state: dict[str, Any]) -> None:
        self._checkpoints.save(self.model, state, self.awaited)
        self._saved = time.monotonic()


class ShowProgress(keras.callbacks.Callback):
    """Reports the number of finished steps."""

    def __init__(self, progress: Progress, steps: int, epochs: int, first_step: int = 0) -> None:
        """`first_step` is where the first epoch begins."""
        super().__init__()
        self._first_step = first_step
        self._supports_tf_logs = True
        self._progress = progress
        self._steps = steps
        self._total = epochs * steps
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Steps are counted from 0 again."""
        self._done = epoch * self._steps + self._first_step
        self._first_step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts."""
        self._progress("train", self._done + batch + 1, self._total)


class Histograms(keras.callbacks.Callback):
    """Writes the distribution of every weight to TensorBoard; of a table, that of ten thousand of its rows."""

    def __init__(self, logs: Path) -> None:
        super().__init__()
        self._writer = tf.summary.create_file_writer(str(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes one histogram per weight."""
        with self._writer.as_default():
            for weight in self.model.trainable_weights:
                step = max(1, weight.shape[0] // _HISTOGRAM_ROWS) if weight.shape.rank else 1
                shown = tf.gather(weight, tf.range(0, weight.shape[0], step)) if step > 1 else weight
                tf.summary.histogram(weight.name.partition(":")[0], tf.cast(shown, tf.float32), epoch)
        self._writer.flush()


def write_projector(logs: Path, vectors: np.ndarray, items: pa.Table) -> None:
    """Writes the vectors and names of the 10,000 most popular items for TensorBoard's projector.

    Args:
        logs: TensorBoard's directory.
        vectors: `[items, dim]` float32 in catalogue order.
        items: the catalogue.
    """
    logs.mkdir(parents=True, exist_ok=True)
    counts = items["train_count"].to_numpy()
    rows = np.sort(np.argsort(-counts, kind="stable")[:_PROJECTED_ITEMS])
    shown = items.select(["item_name", "item_id", "train_count"]).take(rows)
    with (logs / "items.tsv").open("w", encoding="utf-8", newline="") as file:
        # The projector splits at line ends and tabs and knows no quotes.
        for row in [shown.column_names, *zip(*(column.to_pylist() for column in shown.columns), strict=True)]:
            file.write("\t".join("" if cell is None else escape_line(str(cell)) for cell in row) + "\n")
    np.savetxt(logs / "vectors.tsv", vectors[rows], fmt="%.6g", delimiter="\t")
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "item vectors"
    embedding.tensor_path = "vectors.tsv"
    embedding.metadata_path = "items.tsv"
    projector.visualize_embeddings(str(logs), config)
