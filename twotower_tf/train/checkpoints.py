"""Checkpoints: one directory each, published atomically, so that training may be killed at any time."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import SideName
from twotower_tf.errors import ArtifactError
from twotower_tf.model import two_tower
from twotower_tf.model.row_shards import Rows
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.train import weights_io

SCHEMA_VERSION = 8

WEIGHTS, OPTIMIZER, METRICS = "weights.npz", "optimizer.npz", "metrics.npz"


class Checkpoints:
    """`checkpoints/EPOCHS-STEPS`: the state after so many epochs and steps of the next one.

    The newest has everything that training needs to continue, that of the best epoch its weights; others are deleted.
    `state` is a JSON document of training's progress; its `epochs`, `step` and `best_epoch` name directories.
    """

    def __init__(self, config: ExperimentConfig, run_dir: Path, *, writes: bool = True) -> None:
        """Opens the checkpoints of a run; of several workers that train together only one `writes` them."""
        self._writes = writes
        self._root = RunPaths(run_dir).checkpoints
        self._fingerprint = configuration.fingerprint(config, configuration.TRAINED)
        self._rule = config.train.table_optimizer.type
        self._batch_size = config.batch_size
        self._rows = config.train.rows

    def save(self, model: TwoTower, state: dict[str, Any], also: int = 0) -> None:
        """Publishes a state, then removes what it replaces; first what a killed training left of another moment.

        The weights of the best epoch are kept, and those after `also` epochs.

        Of several workers' metrics those of the writing one are kept: all see the same losses and random rows.

        Raises:
            DataError: where a weight is not finite; nothing is published or removed then.
        """
        if not self._writes:
            return
        path = self._path(state["epochs"], state["step"])
        made_with = {"table_optimizer": self._rule, "batch_size": self._batch_size, "rows": self._rows}
        document = {
            "schema_version": SCHEMA_VERSION, "config_fingerprint": self._fingerprint, **made_with, **state
        }  # fmt: skip
        artifacts.remove_unfinished(self._root)
        with artifacts.atomic_directory(path, replace=True) as staging:
            weights_io.write(staging / WEIGHTS, _weights(model))
            weights_io.write(staging / OPTIMIZER, weights_io.numbered(model.optimizer.list_state()))
            if state["step"]:
                weights_io.write(staging / METRICS, _metrics(model))
            artifacts.write_json(staging / "state.json", document)
        earlier = {self._path(epochs, 0) for epochs in (state["best_epoch"], also)} - {path}
        for other in self._all():
            if other in earlier:
                (other / OPTIMIZER).unlink(missing_ok=True)  # as much again as the weights, or twice
            elif other != path:
                shutil.rmtree(other)

    def clear(self) -> None:
        """Removes all checkpoints."""
        if self._writes:
            shutil.rmtree(self._root, ignore_errors=True)

    def resume(self, model: TwoTower) -> dict[str, Any] | None:
        """Restores the newest weights and optimizer, and returns what `save` was given; None where there is nothing.

        Raises:
            ArtifactError: if the checkpoint has another configuration or another table optimizer, whose state has
                another meaning even if its shape is the same, or another kind of training rows, or is within an epoch
                with another batch size.
        """
        if not self._all():
            return None
        state, path = self._newest()
        rule = state["table_optimizer"]
        if rule != self._rule:
            raise ArtifactError(
                f"{path / 'state.json'}: the checkpoint has the optimizer state of {rule}, which {self._rule} cannot "
                f"use; resume with {rule} as train.table_optimizer, or start over without --resume"
            )
        if state["rows"] != self._rows:  # the weights of an optimizer are numbered in the order of the model's layers
            raise ArtifactError(
                f"{path / 'state.json'}: the checkpoint is of train.rows={state['rows']} (got {self._rows}); resume "
                f"with train.rows={state['rows']}, or start over without --resume"
            )
        step, size = state["step"], state["batch_size"]
        if step and size != self._batch_size:
            raise ArtifactError(
                f"{path / 'state.json'}: the checkpoint is within an epoch, at step {step} of batch size {size} "
                f"(got train.batch_size={self._batch_size}); resume with train.batch_size={size}, or start over "
                "without --resume"
            )
        model.optimizer.build(model.trainable_variables)
        weights_io.read(path / WEIGHTS, _weights(model))
        weights_io.read(path / OPTIMIZER, weights_io.numbered(model.optimizer.list_state()))
        return state

    def add_metrics(self, model: TwoTower, state: dict[str, Any]) -> None:
        """Adds to the metrics of an epoch what they had counted before it was interrupted: all of them are sums."""
        if not self._writes:  # the one worker's metrics stand for what all had counted
            return
        now = {name: variable.numpy() for name, variable in _metrics(model).items()}
        weights_io.read(self._path(state["epochs"], state["step"]) / METRICS, _metrics(model))
        for name, variable in _metrics(model).items():
            variable.assign_add(now[name])

    def best_weights(self) -> Path:
        """Returns the file with the best epoch's weights, for `weights_io.read`.

        Raises:
            ArtifactError: if it does not exist, or is of another configuration.
        """
        if not self._all():
            raise ArtifactError(f"{self._root}: no trained model; run `twotower train` first")
        state, _ = self._newest()
        if not state["best_epoch"]:
            raise ArtifactError(f"{self._root}: no epoch is finished; run `twotower train --resume` first")
        return self._path(state["best_epoch"], 0) / WEIGHTS

    def has_weights(self, epochs: int) -> bool:
        """Tests whether the weights after so many epochs are kept."""
        return (self._path(epochs, 0) / WEIGHTS).is_file()

    def restore_weights(self, model: TwoTower, epochs: int) -> None:
        """Restores the weights after so many epochs, which are kept."""
        weights_io.read(self._path(epochs, 0) / WEIGHTS, _weights(model))

    def restore_best(self, model: TwoTower) -> None:
        """Restores the best epoch's weights.

        Raises:
            ArtifactError: see `best_weights`.
        """
        weights_io.read(self.best_weights(), _weights(model))

    def _newest(self) -> tuple[dict[str, Any], Path]:
        newest = self._all()[-1]
        path = newest / "state.json"
        state = artifacts.read_json(path, "checkpoint", SCHEMA_VERSION)
        if state["config_fingerprint"] != self._fingerprint:
            raise ArtifactError(f"{path}: of another configuration than the run's config.json; train again")
        return state, newest

    def _all(self) -> list[Path]:
        return sorted(path for path in self._root.glob("[0-9]*-[0-9]*") if path.is_dir())

    def _path(self, epochs: int, step: int) -> Path:
        return self._root / f"{epochs:05d}-{step:09d}"


def _weights(model: TwoTower) -> dict[str, Rows]:
    """Returns the weights of the layers; the model itself has a clock, too."""
    return weights_io.names(weight for layer in model.layers for weight in layer.weights)


def _metrics(model: TwoTower) -> dict[str, Any]:
    return weights_io.numbered(variable for metric in model.metrics for variable in metric.variables)


def load_model(config: ExperimentConfig, run_dir: Path, sides: Collection[SideName] = two_tower.SIDES) -> TwoTower:
    """Rebuilds the model of a run with its best weights, or what it has for `sides` (see `two_tower.build`).

    Raises:
        ArtifactError: where the run has no trained model, or one of another configuration.
    """
    model = two_tower.build(config, sides=sides)
    Checkpoints(config, Path(run_dir)).restore_best(model)
    return model
