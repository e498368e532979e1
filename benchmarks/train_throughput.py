"""Examples per second of training, compared with the textbook model and TensorFlow Recommenders on the same rows.

    python benchmarks/train_throughput.py [--events=300000] [--rounds=7] [--settings=1024x1,8192x1,1024x10,1024x100]
                                          [--retrieval=1024,4096] [--precision=float32] [--profile]

Textbook: one `DenseFeatures` per column, Adam, `keras.Model.fit`. Both train the same model: eleven hash columns of 16
dimensions, towers of 128-64-32, the log's own labels, binary cross-entropy on the cosine logit, the same metrics. The
textbook model reads batches of strings from memory, twotower_tf its prepared arrays.

Retrieval: in-batch softmax between 64 dimensions of a user and an item, on pairs with gowalla's numbers of users and
places. TensorFlow Recommenders' basic retrieval (two `Embedding`s of integers, `tasks.Retrieval`, Adagrad) has no
towers and no correction; twotower_tf also has a projection, unit length, the logQ correction, the removal of accidental
hits, and ranks.

The two of a pair run in separate processes and take turns, so that a busy machine slows both; the ratio is the median
of the rounds' ratios. One JSON line per comparison. `matmul_share`: floating-point operations per second of the towers'
and the loss's matrix products in twotower_tf, as a share of what one large product of the same type reaches on this
machine. `--profile` adds a line per setting with the milliseconds of each part of a step, traced on one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import avazu_log
import numpy as np
import step_profile
from comparison import print_comparison

from twotower_tf.config import (
    CosineLogitBCE,
    DataConfig,
    ExperimentConfig,
    Hash,
    InBatch,
    InBatchSoftmax,
    Labelled,
    ModelConfig,
    RandomSplit,
    SamplingConfig,
    TrainConfig,
)

ITEM = {name: 10_000 for name in ("adid", "site_id", "site_domain", "site_category", "app_id", "app_domain")}
ITEM["app_category"] = 1_000
USER = {"device_id": 1_000, "device_ip": 10_000, "device_type": 10, "device_conn_type": 10}
DIM, HIDDEN, VECTOR = 16, (128, 64), 32
USERS, PLACES, WIDTH = 29_858, 40_981, 64

Precision = Literal["float32", "mixed_bfloat16"]
Fit = Callable[[int], None]  # trains so many steps


def experiment(root: Path, scale: int, batch_size: int, precision: Precision) -> ExperimentConfig:
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
        loss=CosineLogitBCE(),
        train=TrainConfig(batch_size=batch_size, monitor="", precision=precision),
    )  # fmt: skip


def retrieval(root: Path, batch_size: int, precision: Precision) -> ExperimentConfig:
    """One user and one item column, no hidden layers, in-batch softmax."""
    return ExperimentConfig(
        name="retrieval",
        data=DataConfig(root=str(root), events="pairs.parquet", timestamp="", split=RandomSplit(0.05, 0.05)),
        item_features=(Hash("item_id", buckets=400_000),),
        user_features=(Hash("user_id", buckets=300_000),),
        model=ModelConfig(embedding_dim=WIDTH, vector_dim=WIDTH, item_hidden=(), user_hidden=()),
        sampling=SamplingConfig(negatives=(InBatch(),)),
        loss=InBatchSoftmax(temperature=0.1),
        train=TrainConfig(batch_size=batch_size, monitor="", precision=precision),
    )


def twotower(config: ExperimentConfig, run_dir: Path) -> Fit:
    """This package's model, from the prepared arrays."""
    from twotower_tf.features.arrays import EncodedData
    from twotower_tf.features.encode_rows import encode
    from twotower_tf.prepare.prepared import Prepared
    from twotower_tf.train.batches import Batches
    from twotower_tf.train.training_loop import compile_model, share_cores

    share_cores()  # as `twotower train` does
    prepared = Prepared.open(run_dir)
    encode(config, prepared)
    batches = Batches(config, prepared, EncodedData(config, prepared))
    model, dataset = compile_model(config, batches.steps), batches.dataset(0)
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0)


def textbook_model(users: dict[str, int], items: dict[str, int]) -> Any:
    """The usual way: one `DenseFeatures` per hash column (name: buckets), Adam, binary cross-entropy."""
    import tensorflow as tf
    import tf_keras as keras

    from twotower_tf.model.losses.cosine_logit import final_sigmoid

    inputs = {name: keras.Input([], dtype=tf.string, name=name) for name in (*items, *users)}
    vectors = []
    for columns in (users, items):
        parts = []
        for name, size in columns.items():
            column = tf.feature_column.categorical_column_with_hash_bucket(name, size)
            layer = keras.layers.DenseFeatures([tf.feature_column.embedding_column(column, DIM)])
            parts.append(layer({name: inputs[name]}))
        x = keras.layers.Concatenate()(parts)
        for units in HIDDEN:
            x = keras.layers.Dense(units, "relu")(x)
        vectors.append(keras.layers.Lambda(lambda v: tf.math.l2_normalize(v, -1))(keras.layers.Dense(VECTOR)(x)))
    cosine = keras.layers.Dot(axes=1)(vectors)
    logit = keras.layers.Lambda(lambda c: 2 * tf.math.atanh(tf.clip_by_value(c, -0.999, 0.999)))(cosine)
    model = keras.Model(inputs, final_sigmoid()(logit))
    metrics = (keras.metrics.AUC, keras.metrics.BinaryAccuracy, keras.metrics.Precision, keras.metrics.Recall)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=[metric() for metric in metrics])
    return model


def textbook_rows(run_dir: Path, split: str, users: Iterable[str], items: Iterable[str]) -> Any:
    """A split's texts by column, and its labels `[rows]` float32."""
    import pyarrow as pa
    import tensorflow as tf

    from twotower_tf.prepare.prepared import Prepared

    prepared = Prepared.open(run_dir)
    rows = prepared.read_rows(split)
    places = pa.array(rows["item_row"].to_numpy())
    catalogue = prepared.items().take(places)

    def texts(side: str, name: str) -> Any:
        carried = f"{side}.{name}" in rows.column_names
        column = rows[f"{side}.{name}"] if carried else catalogue[name]
        return tf.constant([text or "" for text in column.cast(pa.string()).to_pylist()])

    x = {name: texts("user", name) for name in users} | {name: texts("item", name) for name in items}
    return x, rows["label"].to_numpy().astype(np.float32)


def textbook(run_dir: Path, scale: int, batch_size: int) -> Fit:
    """The textbook model from strings in memory."""
    import tensorflow as tf

    from twotower_tf.train.batches import disable_autotuning

    users, items = ({name: size * scale for name, size in side.items()} for side in (USER, ITEM))
    model = textbook_model(users, items)
    dataset = tf.data.Dataset.from_tensor_slices(textbook_rows(run_dir, "train", users, items))
    dataset = disable_autotuning(dataset.batch(batch_size, drop_remainder=True).cache().repeat().prefetch(2))
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0)


def recommenders(root: Path, batch_size: int) -> Fit:
    """TensorFlow Recommenders' basic retrieval."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import pyarrow.parquet as pq
    import tensorflow as tf
    import tensorflow_recommenders as tfrs
    import tf_keras as keras

    from twotower_tf.train.batches import disable_autotuning

    class Retrieval(tfrs.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = keras.layers.Embedding(USERS, WIDTH), keras.layers.Embedding(PLACES, WIDTH)
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, features: Any, training: bool = False) -> Any:
            return self.task(self.user(features["user"]), self.item(features["item"]))

    table = pq.read_table(root / "pairs.parquet")
    pairs = {
        name: tf.constant([int(text[1:]) for text in table[f"{name}_id"].to_pylist()], tf.int32)
        for name in ("user", "item")
    }
    dataset = tf.data.Dataset.from_tensor_slices(pairs).batch(batch_size, drop_remainder=True)
    dataset = disable_autotuning(dataset.cache().repeat().prefetch(2))
    model = Retrieval()
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    return lambda steps: model.fit(dataset, steps_per_epoch=steps, verbose=0)


def serve(connection: Connection, make: Callable[..., Fit], *arguments: Any) -> None:
    """Trains the received number of steps and answers with the seconds, until the number is 0."""
    fit = make(*arguments)
    while steps := connection.recv():
        begin = time.perf_counter()
        fit(steps)
        connection.send(time.perf_counter() - begin)


class Contender:
    """One of a pair, in its own process."""

    def __init__(self, make: Callable[..., Fit], *arguments: Any) -> None:
        self._mine, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, make, *arguments))
        self._process.start()

    def seconds(self, steps: int) -> float:
        """Returns the seconds that so many steps take."""
        self._mine.send(steps)
        return float(self._mine.recv())

    def close(self) -> None:
        """Ends the process."""
        self._mine.send(0)
        self._process.join()


def compare(one: Contender, other: Contender, steps: tuple[int, int], rounds: int) -> tuple[float, float, float]:
    """Returns the steps per second of both, and their ratio: medians over the rounds."""
    for contender in (one, other):
        contender.seconds(20)  # tracing and first touches of memory
    speeds = np.array([[steps[0] / one.seconds(steps[0]), steps[1] / other.seconds(steps[1])] for _ in range(rounds)])
    one.close()
    other.close()
    return float(np.median(speeds[:, 0])), float(np.median(speeds[:, 1])), float(np.median(speeds[:, 0] / speeds[:, 1]))


def profile(make: Callable[..., Fit], *arguments: Any) -> dict[str, float]:
    """Milliseconds of a step's parts, on one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    fit = make(*arguments)
    fit(20)
    return step_profile.milliseconds(fit, 20)


def report_profile(setting: str, *arguments: Any) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        parts = pool.apply(profile, arguments)
    print(json.dumps({"benchmark": "train_throughput", "setting": setting, "step_ms": parts}), flush=True)


def peak(dtype: str) -> float:
    """Floating-point operations per second of a large matrix product."""
    import tensorflow as tf

    size = 2048
    a = tf.cast(tf.random.normal((size, size)), dtype)
    best = 0.0
    for _ in range(8):
        begin = time.perf_counter()
        tf.linalg.matmul(a, a).numpy()
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def tower_operations() -> int:
    """Of one example's matrix products in the textbook model, forward and backward: three products per layer."""
    widths = [[DIM * len(side), *HIDDEN, VECTOR] for side in (USER, ITEM)]
    return sum(6 * a * b for side in widths for a, b in zip(side, side[1:], strict=False))


def report(mine: float, usual: float, ratio: float, batch: int, setting: str, operations: float, rate: float) -> None:
    share = round(mine * batch * operations / rate, 3)
    figures = (round(mine * batch), round(usual * batch))
    print_comparison("train_throughput", *figures, "examples/s", setting, ratio=ratio, matmul_share=share)


def write_pairs(path: Path) -> None:
    """As many users, places and pairs as gowalla has, both with a long tail."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(17)
    numbers = {"user_id": USERS, "item_id": PLACES}
    columns = {name: (rng.random(810_128) ** 2 * size).astype(int).astype(str) for name, size in numbers.items()}
    table = {name: pa.array(np.char.add(name[0], values)) for name, values in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--settings", default="1024x1,8192x1,1024x10,1024x100", help="batch size x table scale, ...")
    parser.add_argument("--retrieval", default="1024,4096", help="batch sizes")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32", help="of twotower_tf")
    parser.add_argument("--profile", action="store_true", help="also prints the milliseconds of a step's parts")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from twotower_tf.prepare.preparation import prepare_log

    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(1) as pool:
        rate = pool.apply(peak, ("float32" if options.precision == "float32" else "bfloat16",))
        if options.settings:
            root, run_dir = Path(scratch) / "data", Path(scratch) / "run"
            avazu_log.write(root / "events.csv", options.events)
            prepare_log(experiment(root, 1, 1024, "float32"), run_dir)
        for setting in filter(None, options.settings.split(",")):
            batch, scale = (int(part) for part in setting.split("x"))
            steps = max(10, options.steps * 1024 // batch)
            config = experiment(root, scale, batch, options.precision)
            figures = compare(
                Contender(twotower, config, run_dir), Contender(textbook, run_dir, scale, batch),
                (steps, max(3, steps // scale)), options.rounds,
            )  # fmt: skip
            compared = f"textbook model, batch {batch:,}, {72_020 * scale:,} table rows, {options.precision}"
            report(*figures, batch, compared, tower_operations(), rate)
            if options.profile:
                report_profile(compared, twotower, config, run_dir)
        if options.retrieval:
            root, run_dir = Path(scratch) / "pairs", Path(scratch) / "pairs_run"
            write_pairs(root / "pairs.parquet")
            prepare_log(retrieval(root, 1024, "float32"), run_dir)
        for batch in map(int, filter(None, options.retrieval.split(","))):
            steps = max(10, options.steps * 1024 // batch)
            config = retrieval(root, batch, options.precision)
            figures = compare(
                Contender(twotower, config, run_dir), Contender(recommenders, root, batch),
                (steps, steps), options.rounds,
            )  # fmt: skip
            operations = 12 * WIDTH * WIDTH + 6 * WIDTH * batch
            compared = f"in-batch softmax, peer TensorFlow Recommenders, batch {batch:,}, {options.precision}"
            report(*figures, batch, compared, operations, rate)
            if options.profile:
                report_profile(compared, twotower, config, run_dir)


if __name__ == "__main__":
    main()
