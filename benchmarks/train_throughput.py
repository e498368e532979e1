"""Examples per second of training, beside the textbook model: one `DenseFeatures` per column, Adam, `keras.Model.fit`.

    python benchmarks/train_throughput.py [--events=500000] [--steps=150]

Both train the same model on the same rows: eleven hash columns of 16 dimensions, towers of 128-64-32, the log's own
labels, binary cross-entropy on the cosine logit, the same metrics. The textbook reads batches of strings from memory,
ours the prepared arrays. One JSON line per table size and batch size.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import avazu_log
import numpy as np
import pyarrow as pa
import tensorflow as tf
import tf_keras as keras

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, Labelled, ModelConfig, SamplingConfig, TrainConfig
from twotower_tf.data.prepare import prepare
from twotower_tf.data.prepared import Prepared
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode import encode
from twotower_tf.model.losses.cosine_logit import COSINE_BOUND, final_sigmoid
from twotower_tf.train.batches import Batches
from twotower_tf.train.loop import compile_model

ITEM = {name: 10_000 for name in ("adid", "site_id", "site_domain", "site_category", "app_id", "app_domain")}
ITEM["app_category"] = 1_000
USER = {"device_id": 1_000, "device_ip": 10_000, "device_type": 10, "device_conn_type": 10}
DIM, HIDDEN, VECTOR = 16, (128, 64), 32
METRICS = (keras.metrics.AUC, keras.metrics.BinaryAccuracy, keras.metrics.Precision, keras.metrics.Recall)


def experiment(root: Path, scale: int, batch_size: int) -> ExperimentConfig:
    """The eleven columns with `scale` times the textbook's buckets."""
    return ExperimentConfig(
        name="textbook",
        data=DataConfig(
            root=str(root), events="events.csv", user_id="device_id", item_id="adid", timestamp="hour", label="click",
            timestamp_format="%y%m%d%H",
        ),
        item_features=tuple(Hash(name, buckets=size * scale) for name, size in ITEM.items()),
        user_features=tuple(Hash(name, buckets=size * scale) for name, size in USER.items()),
        model=ModelConfig(embedding_dim=DIM, vector_dim=VECTOR, item_hidden=HIDDEN, user_hidden=HIDDEN),
        sampling=SamplingConfig(negatives=(Labelled(),)),
        train=TrainConfig(batch_size=batch_size, monitor=""),
    )  # fmt: skip


def timed_fit(model: keras.Model, dataset: tf.data.Dataset, steps: int, batch_size: int) -> float:
    """Examples per second of the second of two runs of `steps`."""
    model.fit(dataset, steps_per_epoch=min(20, steps), verbose=0)
    begin = time.perf_counter()
    model.fit(dataset, steps_per_epoch=steps, verbose=0)
    return steps * batch_size / (time.perf_counter() - begin)


def ours(root: Path, run_dir: Path, scale: int, batch_size: int, steps: int) -> float:
    """Ours, from the prepared arrays."""
    config = experiment(root, scale, batch_size)
    prepared = Prepared.open(run_dir)
    encode(config, prepared)
    batches = Batches(config, prepared, EncodedData.open(config, prepared))
    return timed_fit(compile_model(config, batches.steps), batches.dataset(0), steps, batch_size)


def textbook(rows: pa.Table, scale: int, batch_size: int, steps: int) -> float:
    """The usual way, from strings in memory."""
    inputs = {name: keras.Input([], dtype=tf.string, name=name) for name in (*ITEM, *USER)}
    vectors = []
    for columns in (USER, ITEM):
        parts = []
        for name, size in columns.items():
            column = tf.feature_column.categorical_column_with_hash_bucket(name, size * scale)
            layer = keras.layers.DenseFeatures([tf.feature_column.embedding_column(column, DIM)])
            parts.append(layer({name: inputs[name]}))
        x = keras.layers.Concatenate()(parts)
        for units in HIDDEN:
            x = keras.layers.Dense(units, "relu")(x)
        vectors.append(keras.layers.Lambda(lambda v: tf.math.l2_normalize(v, -1))(keras.layers.Dense(VECTOR)(x)))
    cosine = keras.layers.Dot(axes=1)(vectors)
    logit = keras.layers.Lambda(lambda c: 2 * tf.math.atanh(tf.clip_by_value(c, -COSINE_BOUND, COSINE_BOUND)))(cosine)
    model = keras.Model(inputs, final_sigmoid()(logit))
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=[metric() for metric in METRICS])
    x = {
        name: tf.constant(rows[f"{side}.{name}"].to_pylist())
        for side, names in (("user", USER), ("item", ITEM))
        for name in names
    }
    y = tf.constant(rows["label"].to_numpy().astype(np.float32))
    dataset = (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True).cache().repeat().prefetch(2)
    )
    return timed_fit(model, dataset, steps, batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--settings", default="1024x1,8192x1,1024x10,1024x100", help="batch size x table scale, ...")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, run_dir = Path(scratch) / "data", Path(scratch) / "run"
        avazu_log.write(root / "events.csv", options.events)
        prepare(experiment(root, 1, 1024), run_dir)
        rows = pa.Table.from_batches(Prepared.open(run_dir).raw_batches("train", 100_000))
        items = Prepared.open(run_dir).item_ids()
        rows = rows.append_column("item.adid", pa.array(items[rows["item_row"].to_numpy()], pa.string()))
        for setting in options.settings.split(","):
            batch_size, scale = (int(part) for part in setting.split("x"))
            usual = textbook(rows, scale, batch_size, max(5, options.steps // scale))
            mine = ours(root, run_dir, scale, batch_size, options.steps)
            print(
                json.dumps(
                    {
                        "benchmark": "train_throughput",
                        "ours": round(mine),
                        "peer": round(usual),
                        "ratio": round(mine / usual, 2),
                        "unit": "examples/s",
                        "setting": f"textbook model, batch {batch_size:,}, {72_020 * scale:,} table rows",
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
