"""Validation loss of fused tables and sparse optimizers, compared with the textbook model's, on the synthetic log.

    python benchmarks/textbook_quality.py [--events=200000] [--epochs=8]

The same columns, towers and loss: five hash columns of 16 dimensions, 128-64-32, the log's own labels, batches of
1,024. After every epoch the mean binary cross-entropy of all validation rows. One JSON line: the lowest losses
of both; `curve` has seconds of training (without the first epoch's tracing) and loss, epoch by epoch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from comparison import print_comparison
from train_throughput import DIM, HIDDEN, VECTOR, textbook_model, textbook_rows

from twotower_tf.config import (
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    Labelled,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
)
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.model import two_tower
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches, disable_autotuning
from twotower_tf.train.training_loop import compile_model

USER, ITEM = {"user_id": 50_000, "country": 100, "device_type": 10}, {"item_id": 10_000, "category": 200}
BATCH = 1024

Curve = list[tuple[float, float]]


def experiment(root: Path) -> ExperimentConfig:
    """The five columns."""
    return ExperimentConfig(
        name="textbook",
        data=DataConfig(root=str(root), events="events", items="items.csv", users="users.csv", label="click"),
        item_features=tuple(Hash(name, buckets=size) for name, size in ITEM.items()),
        user_features=tuple(Hash(name, buckets=size) for name, size in USER.items()),
        model=ModelConfig(embedding_dim=DIM, vector_dim=VECTOR, item_hidden=HIDDEN, user_hidden=HIDDEN),
        sampling=SamplingConfig(negatives=(Labelled(),)),
        loss=CosineLogitBCE(),
        train=TrainConfig(batch_size=BATCH, monitor=""),
    )


def entropy(labels: np.ndarray, chances: np.ndarray) -> float:
    """Mean binary cross-entropy."""
    chances = np.clip(chances.reshape(-1).astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(labels * np.log(chances) + (1 - labels) * np.log(1 - chances)))


def curve(model: Any, fit: Any, valid: Any, epochs: int) -> Curve:
    """Returns seconds and validation loss after each epoch; `fit` trains the epoch of a number."""
    x, labels = valid
    passed, points = 0.0, []
    for epoch in range(epochs):
        begin = time.perf_counter()
        fit(epoch)
        passed += time.perf_counter() - begin if epoch else 0.0
        points.append((round(passed, 2), round(entropy(labels, model.predict(x, batch_size=8192, verbose=0)), 5)))
    return points


def twotower(config: ExperimentConfig, run_dir: Path, epochs: int) -> Curve:
    """Trains this package's model from the prepared arrays."""
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    batches = Batches(config, prepared, encoded)
    model = compile_model(config, batches.steps)
    labels = encoded.keys("valid")["label"]
    rows = np.arange(len(labels))
    items = encoded.item_batch(encoded.keys("valid")["item_row"][rows], encoded.times("valid", rows))
    sides = {"user": encoded.user_batch("valid", rows), "item": items}
    x = {
        name: np.asarray(sides[side][key])
        for side in ("user", "item")
        for key, name in two_tower.batch_names(config, side).items()
    }

    def fit(epoch: int) -> None:
        model.fit(batches.dataset(epoch), steps_per_epoch=batches.steps, verbose=0)

    return curve(model, fit, (x, labels.astype(np.float32)), epochs)


def textbook(run_dir: Path, epochs: int) -> Curve:
    """Trains the textbook model from strings in memory, with a new order in every epoch."""
    import tensorflow as tf

    model = textbook_model(USER, ITEM)
    x, y = textbook_rows(run_dir, "train", USER, ITEM)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=17).batch(BATCH, drop_remainder=True)
    valid = textbook_rows(run_dir, "valid", USER, ITEM)
    return curve(model, lambda epoch: model.fit(disable_autotuning(dataset.prefetch(2)), verbose=0), valid, epochs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, run_dir = Path(scratch) / "data", Path(scratch) / "run"
        write_synthetic_log(root, events=options.events)
        config = experiment(root)
        prepare_log(config, run_dir)
        encode(config, Prepared.open(run_dir))
        mine, usual = twotower(config, run_dir, options.epochs), textbook(run_dir, options.epochs)
    best, other = (min(loss for _, loss in points) for points in (mine, usual))
    setting = f"synthetic log of {options.events:,} rows, {options.epochs} epochs"
    curves = {"twotower_tf": mine, "peer": usual}
    print_comparison("textbook_quality", best, other, "validation loss", setting, curve=curves)


if __name__ == "__main__":
    main()
