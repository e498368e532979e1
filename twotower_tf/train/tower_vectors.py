"""Computes vectors of the catalogue and of queries with the towers of a model in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from twotower_tf.config.features import SideName
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.catalogue_versions import Batch
from twotower_tf.features.layout import Layout
from twotower_tf.model import history, two_tower
from twotower_tf.model.two_tower import TwoTower

_ROWS_PER_BATCH = 8192
_NUMBERS_PER_BATCH = 1 << 25  # of embedded histories and what their encoders make of them
_TRACED = "traced_towers"  # attribute of a model


def item_vectors(
    model: TwoTower, encoded: EncodedData, rows: np.ndarray | None = None, *, at: int | None = None
) -> np.ndarray:
    """Vectors of catalogue rows (all by default): float32 `[rows, vector_dim]`, unit length.

    `at` is the epoch second as of which the items are taken; None takes the catalogue, as of the preparation.
    """
    rows = np.arange(encoded.num_items) if rows is None else rows
    return _vectors(model, encoded, "item", rows, lambda part: encoded.item_batch(part, at))


def user_vectors(model: TwoTower, encoded: EncodedData, split: str, rows: np.ndarray) -> np.ndarray:
    """Vectors of the users of a split's rows `[n]`, as of those events: float32 `[n, vector_dim]`, unit length."""
    return _vectors(model, encoded, "user", rows, lambda part: encoded.user_batch(split, part))


def _vectors(
    model: TwoTower, encoded: EncodedData, side: SideName, rows: np.ndarray, read: Callable[[np.ndarray], Batch]
) -> np.ndarray:
    tower, call = _traced_tower(model, side)
    names = two_tower.batch_names(encoded.config, side)
    held = sum(history.count_numbers(encoded.config, each) for each in Layout(encoded.config, side).multivalued)
    size = min(_ROWS_PER_BATCH, max(1, _NUMBERS_PER_BATCH // max(1, held)))
    vectors = np.empty((len(rows), tower.output_shape[-1]), np.float32)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        batch = {names[key]: tf.constant(np.ascontiguousarray(value)) for key, value in read(part).items()}
        vectors[start : start + len(part)] = call(batch, training=False)
    return vectors


def _traced_tower(model: TwoTower, side: SideName) -> tuple[Any, Any]:
    """Returns one side's tower and its traced function, which a model keeps: they are called after every epoch.

    They die with it. Not `setattr`, with which Keras would count the towers among the model's layers.
    """
    towers: dict[str, tuple[Any, Any]] = model.__dict__.setdefault(_TRACED, {})
    if side not in towers:
        tower = two_tower.tower(model, side)
        towers[side] = tower, tf.function(tower, reduce_retracing=True)
    return towers[side]
