"""Loads towers from their SavedModels and runs them as a client does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower_tf import resources
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.manifest import tower_paths
from twotower_tf.bundle.signature_names import MODEL_VERSION, SERVING_DEFAULT
from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import SideName
from twotower_tf.errors import ArtifactError
from twotower_tf.features.argument_names import argument_names
from twotower_tf.features.inputs import side_inputs
from twotower_tf.features.layout import VECTOR_LAYERS

Arrays = Mapping[str, npt.NDArray[Any]]

_ROWS_PER_BATCH = 8192


def measure_weights(bundle_dir: Path, side: SideName) -> int:
    """Returns the bytes of a tower's saved weights."""
    return sum(path.stat().st_size for path in (tower_paths(bundle_dir)[side] / "variables").iterdir())


class Tower:
    """A tower's SavedModel: its inputs and the names of its signatures."""

    def __init__(self, bundle_dir: Path, config: ExperimentConfig, side: SideName, version: int) -> None:
        """Loads a tower of a directory that may lack other files of a bundle yet; every answer must be of `version`."""
        # Held: its signatures do not keep the weights alive.
        self._model: Any = tf.saved_model.load(str(tower_paths(bundle_dir)[side]))
        self._bundle_dir, self._side, self._version = bundle_dir, side, version
        self.inputs = side_inputs(config, side)
        self._arguments = argument_names([each.name for each in self.inputs])
        self.signatures = tuple(self._model.signatures)

    def close(self) -> None:
        """Frees large weights at once; references within a SavedModel would keep them for long."""
        self._model = None
        resources.collect_garbage(measure_weights(self._bundle_dir, self._side))

    @classmethod
    def of_bundle(cls, bundle: Bundle, side: SideName) -> Tower:
        """Loads a tower of a bundle.

        Raises:
            ArtifactError: where a file of it is missing or changed.
        """
        bundle.tower(side)  # compares its files with the manifest
        return cls(bundle.path, bundle.config, side, bundle.version)

    def __call__(self, signature: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Answers raw inputs `[batch, ...]` by name with the outputs by name.

        Raises:
            ArtifactError: where the answer is of another version.
        """
        arguments = {self._arguments.get(name, name): tf.constant(array) for name, array in arrays.items()}
        answer = {name: value.numpy() for name, value in self._model.signatures[signature](**arguments).items()}
        others = set(answer[MODEL_VERSION].tolist()) - {self._version}
        if others:
            raise ArtifactError(
                f"{self._bundle_dir}: the {self._side} tower answers as version {', '.join(map(str, sorted(others)))} "
                f"(expected {self._version}, that of the manifest); export again"
            )
        return answer

    def signature(self, name: str) -> Any:
        """Returns a signature, a function of tensors by argument name; it needs this object to stay alive."""
        return self._model.signatures[name]

    def vectors(self, arrays: Arrays) -> npt.NDArray[np.float32]:
        """Computes the vectors `[rows, vector_dim]` of raw inputs `[rows, ...]`, of any number of rows."""
        parts = []
        for start in range(0, max(len(next(iter(arrays.values()))), 1), _ROWS_PER_BATCH):
            batch = {name: array[start : start + _ROWS_PER_BATCH] for name, array in arrays.items()}
            parts.append(self(SERVING_DEFAULT, batch)[VECTOR_LAYERS[self._side]])
        return np.concatenate(parts)
