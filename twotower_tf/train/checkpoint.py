"""Training state on disk: one directory per epoch, whole or absent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf_keras as keras

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ArtifactError
from twotower_tf.model import two_tower
from twotower_tf.model.two_tower import TwoTower

SCHEMA_VERSION = 1

_LATEST, _BEST = "latest", "best"


class Checkpoints:
    """`checkpoints/latest` holds everything that training needs to go on, `checkpoints/best` the best epoch."""

    def __init__(self, config: ExperimentConfig, run_dir: Path) -> None:
        self._root = RunPaths(run_dir).checkpoints
        self._fingerprint = configuration.fingerprint(config, configuration.TRAINED)

    def save(self, model: TwoTower, optimizer: keras.optimizers.Optimizer, state: dict[str, Any], best: bool) -> None:
        """Publishes the state after an epoch, as the latest and, where it is, the best."""
        document = {"schema_version": SCHEMA_VERSION, "config_fingerprint": self._fingerprint, **state}
        for name in (_BEST, _LATEST) if best else (_LATEST,):
            with artifacts.atomic_directory(self._root / name, replace=True) as staging:
                moments = {} if name == _BEST else {"optimizer": optimizer}
                tf.train.Checkpoint(weights=_weights(model), **moments).write(str(staging / "state"))
                artifacts.write_json(staging / "state.json", document)

    def clear(self) -> None:
        """Forgets an earlier training."""
        shutil.rmtree(self._root, ignore_errors=True)

    def resume(self, model: TwoTower, optimizer: keras.optimizers.Optimizer) -> dict[str, Any] | None:
        """Restores the latest state and returns what `save` was given, or None where there is none."""
        if not (self._root / _LATEST).is_dir():
            return None
        optimizer.build(model.trainable_variables)
        state = self._check(_LATEST)
        checkpoint = tf.train.Checkpoint(weights=_weights(model), optimizer=optimizer)
        checkpoint.read(str(self._root / _LATEST / "state")).assert_existing_objects_matched()
        return state

    def restore_best(self, model: TwoTower) -> dict[str, Any]:
        """Restores the best epoch's weights and returns its state.

        Raises:
            ArtifactError: where there is none, or it is of another configuration.
        """
        state = self._check(_BEST)
        tf.train.Checkpoint(weights=_weights(model)).read(str(self._root / _BEST / "state")).assert_consumed()
        return state

    def _check(self, name: str) -> dict[str, Any]:
        path = self._root / name / "state.json"
        if not path.is_file():
            raise ArtifactError(f"{self._root}: no trained model; run `twotower train` first")
        state = artifacts.read_json(path, "checkpoint", SCHEMA_VERSION)
        if state["config_fingerprint"] != self._fingerprint:
            raise ArtifactError(f"{path}: of another configuration than the run's config.json; train again")
        return state


def _weights(model: TwoTower) -> dict[str, tf.Variable]:
    """The weights by name. The model itself would bring its optimizer along, twice its own size."""
    return {weight.name: weight for weight in model.weights}


def load_model(config: ExperimentConfig, run_dir: Path) -> TwoTower:
    """Rebuilds the model of a run with its best weights.

    Raises:
        ArtifactError: where the run has no trained model, or one of another configuration.
    """
    model = two_tower.build(config)
    Checkpoints(config, Path(run_dir)).restore_best(model)
    return model
