"""Loads towers from their SavedModels and runs them as a client does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower_tf.config.features import Input
from twotower_tf.features.argument_names import argument_names

Arrays = Mapping[str, npt.NDArray[Any]]

_ROWS_PER_BATCH = 8192


class Tower:
    """A tower's SavedModel.

    Attributes:
        signatures: names of its signatures.
    """

    def __init__(self, path: Path, inputs: tuple[Input, ...]) -> None:
        """Loads it."""
        self._model = tf.saved_model.load(str(path))  # held: its signatures do not keep the weights alive
        self._arguments = argument_names([each.name for each in inputs])
        self.signatures = tuple(self._model.signatures)

    def __call__(self, signature: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Answers raw inputs `[batch, ...]` by name with the outputs by name."""
        arguments = {self._arguments[name]: tf.constant(array) for name, array in arrays.items()}
        return {name: value.numpy() for name, value in self._model.signatures[signature](**arguments).items()}

    def signature(self, name: str) -> Any:
        """Returns a signature, a function of tensors by argument name; it needs this object to stay alive."""
        return self._model.signatures[name]

    def vectors(
        self, output: str, arrays: Arrays, step: Callable[[int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """Computes the vectors of `serving_default` for any number of rows; `step` is called with the rows done."""
        total = len(next(iter(arrays.values())))
        parts = []
        for start in range(0, max(total, 1), _ROWS_PER_BATCH):
            batch = {name: array[start : start + _ROWS_PER_BATCH] for name, array in arrays.items()}
            parts.append(self("serving_default", batch)[output])
            if step:
                step(min(total, start + _ROWS_PER_BATCH))
        return np.concatenate(parts)
