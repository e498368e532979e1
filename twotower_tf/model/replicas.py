"""What the workers of one training exchange within a step: sums, gradients, and rows of all of them.

Outside of `tf.distribute.Strategy.run`, and with one worker, each function returns what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf


def count_replicas() -> int:
    """Counts the workers that compute the present step together."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def get_index() -> int | tf.Tensor:
    """Returns the worker's number, from 0."""
    return tf.distribute.get_replica_context().replica_id_in_sync_group if count_replicas() > 1 else 0


def sum_over_replicas(value: tf.Tensor) -> tf.Tensor:
    """Adds up a tensor of the same shape of all workers; no gradient flows through the sum."""
    if count_replicas() == 1:
        return value
    return _context().all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))


def gather_rows(part: tf.Tensor) -> tf.Tensor:
    """Returns the rows `[all rows, ...]` of all workers, those of worker 0 first; each may have another number of them.

    The gradient of a worker's rows is the sum of what all workers' losses say about them.
    """
    if count_replicas() == 1:
        return part
    return tf.ensure_shape(_context().all_gather(part, axis=0), [None, *part.shape[1:]])


def share_loss(part: tf.Tensor) -> tf.Tensor:
    """Returns the sum of all workers' parts of a loss; its gradient is that of the worker's own part.

    Keras divides a loss by the number of workers before its gradient is taken, so the own part counts as many times.
    """
    replicas = count_replicas()
    if replicas == 1:
        return part
    own = part * replicas
    return sum_over_replicas(part) + (own - tf.stop_gradient(own))


def sum_gradients(grads_and_vars: Iterable[tuple[Any, tf.Variable]]) -> list[tuple[Any, tf.Variable]]:
    """Adds up the gradients of all workers. Those of tables stay `tf.IndexedSlices`: no table is sent as a whole."""
    pairs = list(grads_and_vars)
    given = [gradient for gradient, _ in pairs if gradient is not None]
    summed = iter(_context().all_reduce(tf.distribute.ReduceOp.SUM, given))
    return [(gradient if gradient is None else next(summed), variable) for gradient, variable in pairs]


def _context() -> Any:
    return tf.distribute.get_replica_context()
