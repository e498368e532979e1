"""The batches of a parameter-server worker: made by its own Python when TensorFlow runs a step that the chief has sent.

TensorFlow calls Python functions by a token, which counts the functions of a process. The worker registers one function
before all others; the chief builds steps that call it by that token, in whatever process they run.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from twotower_tf.train.batches import Batches, pack_arrays

TOKEN = "pyfunc_0"


class BatchFunction:
    """Makes batches by their numbers, the next one of a range while a step runs."""

    def __init__(self, batches: Batches) -> None:
        """Registers the function for as long as this object lives.

        Raises:
            RuntimeError: where TensorFlow has given another function the token.
        """
        self._make = batches.make_arrays()
        self._thread = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[list[np.ndarray]]] = {}
        dtypes = [spec.dtype for spec in tf.nest.flatten(batches.signature())]
        self._graph = tf.Graph()  # keeps the function registered
        with self._graph.as_default():
            range_left = [tf.constant(0, tf.int64)] * 2
            token = tf.numpy_function(self._read, range_left, dtypes)[0].op.get_attr("token").decode()
        if token != TOKEN:
            raise RuntimeError(f"TensorFlow calls the batch function {token!r}; this package expects {TOKEN!r}")

    def _read(self, number: np.int64, stop: np.int64) -> list[np.ndarray]:
        future = self._ahead.pop(int(number), None) or self._thread.submit(self._make, int(number))
        self._ahead.clear()
        arrays = future.result()
        if number + 1 < stop:
            self._ahead[int(number) + 1] = self._thread.submit(self._make, int(number) + 1)
        return arrays


def call(number: tf.Tensor, stop: tf.Tensor, signature: Any) -> Any:
    """Calls the function of the process that a step runs in.

    Args:
        number: int64 `[]`, of the batch, over all epochs.
        stop: int64 `[]`, the end of the range of batches that the process makes one after the other.
        signature: of `Batches.signature`.

    Returns:
        The batch's tensors.
    """
    dtypes = [spec.dtype for spec in tf.nest.flatten(signature)]
    return pack_arrays(tf.raw_ops.PyFunc(input=[number, stop], token=TOKEN, Tout=dtypes), signature)
