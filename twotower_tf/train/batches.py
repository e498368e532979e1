"""Batches of the training split: a global shuffle and fresh negatives, without work per example in Python.

Everything random is a function of seed, epoch and step, so that a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from twotower_tf.config import ExperimentConfig, InBatchSoftmax, Labelled, Uniform
from twotower_tf.data.prepared import Prepared
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.features.arrays import Batch, EncodedData
from twotower_tf.model import two_tower
from twotower_tf.sampling.negatives import Positives, uniform

Example = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]

_SHUFFLE, _DRAW = 0, 1  # streams of random numbers, apart from each other


class Batches:
    """The training rows as batches for `keras.Model.fit`.

    Attributes:
        examples: training rows read per epoch.
        steps: batches per epoch.
    """

    def __init__(self, config: ExperimentConfig, prepared: Prepared, encoded: EncodedData) -> None:
        """Chooses the rows.

        Raises:
            DataError: where there is no training positive.
            ConfigError: where the batch is larger than the data.
        """
        self._config = config
        self._encoded = encoded
        self._keys = encoded.keys("train")
        self._names = {side: two_tower.batch_names(config, side) for side in ("user", "item")}
        self._in_batch = isinstance(config.loss, InBatchSoftmax)
        kinds = config.sampling.negatives
        self._per_positive = next((each.per_positive for each in kinds if isinstance(each, Uniform)), 0)
        positive = self._keys["label"] == 1
        if not positive.any():
            raise DataError("prepared/examples/train: no positive row to train on; check data.label and data.positive")
        with_negatives = any(isinstance(each, Labelled) for each in kinds)
        self._rows = np.arange(len(positive)) if with_negatives else np.flatnonzero(positive)
        self.examples = len(self._rows)
        size = config.train.batch_size
        if size > self.examples:
            raise ConfigError(
                f"train.batch_size: {size:,} is more than the {self.examples:,} training rows; "
                f"lower it, e.g. --set train.batch_size={max(1, self.examples // 4)}"
            )
        self.steps = self.examples // size
        self._positives = Positives(
            self._keys["user_row"][positive], self._keys["item_row"][positive], prepared.num_items
        )
        counts = np.bincount(self._keys["item_row"][positive], minlength=prepared.num_items)
        with np.errstate(divide="ignore"):
            self._log_q = np.log(counts / counts.sum()).astype(np.float32)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Example]:
        """The batches of an epoch (counted from 0), from `first_step` on; the last rows that fill no batch are left."""
        seed, size = self._config.seed, self._config.train.batch_size
        order = np.random.default_rng([seed, _SHUFFLE, epoch]).permutation(self._rows)
        for step in range(first_step, self.steps):
            rows = order[step * size : (step + 1) * size]
            yield self._example(rows, np.random.default_rng([seed, _DRAW, epoch, step]))

    def dataset(self, first_epoch: int) -> tf.data.Dataset:
        """All batches from an epoch on, without end; the next ones are made while a step runs."""

        def batches() -> Iterator[Example]:
            epoch = first_epoch
            while True:
                yield from self.epoch(epoch)
                epoch += 1

        dataset = tf.data.Dataset.from_generator(batches, output_signature=self._signature())
        return dataset.prefetch(4)

    def _example(self, rows: np.ndarray, rng: np.random.Generator) -> Example:
        users = self._encoded.user_batch("train", rows, rng)
        own = self._encoded.event_item_batch("train", rows)
        label = self._keys["label"][rows].astype(np.float32)
        item_rows = self._keys["item_row"][rows]
        x = {self._names["user"][key]: np.ascontiguousarray(value) for key, value in users.items()}
        if self._in_batch:
            items = own
            log_q = self._log_q[item_rows][:, np.newaxis]
            y, weight = np.ones((len(rows), 1), np.float32), np.ones((len(rows), 1), np.float32)
            x |= {two_tower.POSITIVE_LOG_Q: log_q, two_tower.COLUMN_LOG_Q: log_q, two_tower.SAMPLE_WEIGHT: weight}
            x[two_tower.HITS] = np.argwhere(item_rows[:, np.newaxis] == item_rows).astype(np.int32)
        else:
            items = self._with_negatives(own, rows, item_rows, rng)
            y = np.zeros((len(rows), 1 + self._per_positive, 1), np.float32)
            y[:, 0, 0] = label
            weight = np.ones(y.shape[:2], np.float32)
            weight[:, 1:] = label[:, np.newaxis]  # a labelled negative is one already: nothing is drawn for it
        x.update({self._names["item"][key]: np.ascontiguousarray(value) for key, value in items.items()})
        return x, y, weight

    def _with_negatives(self, own: Batch, rows: np.ndarray, item_rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """The rows' own items, then the rows' negatives, those of one row together: `[batch * (1 + negatives)]`."""
        if not self._per_positive:
            return own
        users = self._keys["user_row"][rows]
        drawn = uniform(rng, self._positives, users, item_rows, self._per_positive, self._encoded.num_items)
        negatives = self._encoded.item_batch(drawn.reshape(-1))
        return {key: _stack(value, negatives[key]) for key, value in own.items()}

    def _signature(self) -> Any:
        def spec(value: np.ndarray) -> tf.TensorSpec:
            # Widths of histories and tags differ from batch to batch; columns of ids and numbers do not.
            return tf.TensorSpec([None, *value.shape[1:]], value.dtype)

        x, y, weight = self._example(self._rows[:1], np.random.default_rng(0))
        ragged = {name for side in self._names.values() for name in side.values() if "_multi_" in name}
        specs = {
            name: tf.TensorSpec([None, None], tf.int32) if name in ragged else spec(value) for name, value in x.items()
        }
        return specs, spec(y), spec(weight)


def _stack(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Rows one below the other; where widths differ, -1 (no value) fills the narrower."""
    width = max(first.shape[1], then.shape[1])
    joined = np.full((len(first) + len(then), width), -1, first.dtype)
    joined[: len(first), : first.shape[1]] = first
    joined[len(first) :, : then.shape[1]] = then
    return joined
