"""Seconds until TensorFlow Recommenders' final validation recall is passed, and positions per second of sequences.

    python benchmarks/time_to_quality.py --source=DIR [--peer_epochs=5] [--users=5000] [--batch=4096]
                                         [--rectools_python=PYTHON] [--only=gowalla,sequences]

gowalla: `--source` is a folder of gowalla in LightGCN's split with a validation part, as `twotower dataset gowalla`
takes it; it is not downloaded. The peer is TensorFlow Recommenders' basic retrieval: two `Embedding`s of 64 numbers of
looked-up ids, `tasks.Retrieval` (softmax over the batch), Adagrad with rate .1, batches of `--batch` shuffled pairs in
memory, `Keras.fit`. It trains `--peer_epochs`; its best recall@20 is the goal. This package trains the mean of the
places visited, as `init` proposes for lists, until it passes that. Both rank all items for the same `--users` users
of the validation part, training items left out, by one function. Preparation, start and evaluation are not counted.
Each runs in a process of its own, first the peer.

Sequences: two SASRec blocks, one head, 64 dimensions, sequences of 50, batches of 128, softmax over all of 3,706
items, made sequences of 51 events of 3,000 users. The peer is RecTools' SASRec (PyTorch), run by
`--rectools_python`, where `rectools[torch]` is installed: its libraries and TensorFlow's do not fit into one
environment.

Processor seconds are those of a process with all threads: on a machine that does other work, their ratio counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
from comparison import print_comparison

from twotower_tf import config as configuration
from twotower_tf.config import (
    BilateralSoftmax,
    Catalogue,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    FullSoftmax,
    GivenSplit,
    Hash,
    History,
    LazyAdam,
    ModelConfig,
    RandomSplit,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
    Uniform,
)

K, WIDTH = 20, 64
USERS, ITEMS, LENGTH, BATCH, EPOCHS = 3_000, 3_706, 50, 128, 2  # of the made sequences

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Curve = list[dict[str, float]]

RECTOOLS = """
import json, sys, time
import pandas as pd
from pytorch_lightning import Trainer
from rectools.dataset import Dataset
from rectools.models import SASRecModel
path, length, batch, width, epochs = sys.argv[1], *map(int, sys.argv[2:])
table = pd.read_csv(path)
table["weight"], table["datetime"] = 1.0, pd.to_datetime(table["timestamp"], unit="s")
dataset = Dataset.construct(table[["user_id", "item_id", "weight", "datetime"]])
spent = {}
for count in (1, 1 + epochs):
    def trainer(count=count):
        return Trainer(max_epochs=count, min_epochs=count, accelerator="cpu", logger=False, enable_checkpointing=False,
                       enable_progress_bar=False, enable_model_summary=False, deterministic=False)
    model = SASRecModel(n_blocks=2, n_heads=1, n_factors=width, session_max_len=length, batch_size=batch, lr=.001,
                        loss="softmax", dropout_rate=.1, dataloader_num_workers=0, get_trainer_func=trainer)
    begin, cpu = time.perf_counter(), time.process_time()
    model.fit(dataset)
    spent[count] = time.perf_counter() - begin, time.process_time() - cpu
print(json.dumps([after - before for before, after in zip(spent[1], spent[1 + epochs])]))
"""


class Stopwatch:
    """Adds up wall and processor seconds between `start` and `stop`."""

    def __init__(self) -> None:
        self.seconds, self.processor = 0.0, 0.0

    def start(self) -> None:
        """Begins, or goes on."""
        self._begin = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Ends until the next start."""
        self.seconds += time.perf_counter() - self._begin[0]
        self.processor += time.process_time() - self._begin[1]

    def point(self, epoch: int, recall: float) -> dict[str, float]:
        """Returns a point of a curve."""
        return {"epoch": epoch, "recall": recall, "seconds": self.seconds, "processor_seconds": self.processor}


class Questions:
    """Users of the validation part, with the items that they shall find and those that they have."""

    def __init__(self, run_dir: Path, config: ExperimentConfig, users: int) -> None:
        from twotower_tf.evaluate.protocol import build_queries
        from twotower_tf.prepare.prepared import Prepared

        self.prepared = Prepared.open(run_dir)
        queries = build_queries(self.prepared, config.evaluation, "valid")
        chosen = np.sort(np.random.default_rng(0).permutation(len(queries))[:users])
        self.example_rows, self.users = queries.example_rows[chosen], queries.user_rows[chosen]
        self.wanted = self._lists(self.prepared.columns("valid", ["user_row", "item_row"]))
        self.had = self._lists(self.prepared.columns("train", ["user_row", "item_row"]))

    def _lists(self, columns: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        order = np.argsort(columns["user_row"], kind="stable")
        items = columns["item_row"][order]
        ends = np.searchsorted(columns["user_row"][order], np.arange(self.prepared.num_users + 1))
        return [items[ends[user] : ends[user + 1]] for user in self.users]

    def recall(self, users: Floats, items: Floats) -> float:
        """Computes the mean recall@20 of vectors `[users, dim]`, by dot product with all items' `[items, dim]`."""
        found = []
        for start in range(0, len(users), 256):
            scores = users[start : start + 256] @ items.T
            for row, line in enumerate(scores, start):
                line[self.had[row]] = -np.inf
                best = np.argpartition(-line, K)[:K]
                wanted = np.setdiff1d(self.wanted[row], self.had[row])
                found.append(len(np.intersect1d(best, wanted)) / len(wanted))
        return float(np.mean(found))


def train_peer(run_dir: Path, config_file: Path, users: int, epochs: int, batch: int) -> Curve:
    """Trains TensorFlow Recommenders' basic retrieval; validates after every epoch."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf
    import tensorflow_recommenders as tfrs
    import tf_keras as keras

    questions = Questions(run_dir, configuration.load(config_file), users)
    prepared = questions.prepared

    class Retrieval(tfrs.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.user = keras.layers.Embedding(prepared.num_users, WIDTH)
            self.item = keras.layers.Embedding(prepared.num_items, WIDTH)
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, features: Any, training: bool = False) -> Any:
            return self.task(self.user(features["user"]), self.item(features["item"]), compute_metrics=False)

    keras.utils.set_random_seed(0)
    columns = prepared.columns("train", ["user_row", "item_row"])
    pairs = {"user": columns["user_row"].astype(np.int32), "item": columns["item_row"].astype(np.int32)}
    dataset = tf.data.Dataset.from_tensor_slices(pairs).shuffle(len(pairs["user"])).batch(batch).prefetch(2)
    model = Retrieval()
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    watch, curve = Stopwatch(), Curve()
    for epoch in range(1, epochs + 1):
        watch.start()
        model.fit(dataset, verbose=0)
        watch.stop()
        vectors = model.user.embeddings.numpy()[questions.users], model.item.embeddings.numpy()
        curve.append(watch.point(epoch, questions.recall(*vectors)))
        print("peer", curve[-1], file=sys.stderr, flush=True)
    return curve


class Passed(Exception):
    """Ends a training whose goal is reached."""


def train_own(run_dir: Path, config_file: Path, users: int, goal: float) -> Curve:
    """Trains this package's model until its validation recall passes the goal."""
    from twotower_tf.features.arrays import EncodedData
    from twotower_tf.features.encode_rows import encode
    from twotower_tf.train import tower_vectors, training_loop

    config = configuration.load(config_file)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, evaluate_every=1))
    questions = Questions(run_dir, config, users)
    encode(config, questions.prepared)
    encoded = EncodedData(config, questions.prepared)
    training_loop.share_cores()
    watch, curve = Stopwatch(), Curve()

    def validate(model: Any) -> dict[str, float]:
        watch.stop()
        items = tower_vectors.item_vectors(model, encoded)
        vectors = tower_vectors.user_vectors(model, encoded, "valid", questions.example_rows)
        curve.append(watch.point(len(curve) + 1, questions.recall(vectors, items)))
        print("twotower_tf", curve[-1], file=sys.stderr, flush=True)
        if curve[-1]["recall"] > goal:
            raise Passed
        watch.start()
        return {config.train.monitor: curve[-1]["recall"]}

    watch.start()
    try:
        training_loop.train(config, run_dir, validate=validate, tensorboard=False)
    except Passed:
        pass
    return curve


def run_alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def twotower(*arguments: str) -> None:
    """Runs a command."""
    command = [sys.executable, "-m", "twotower_tf", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ})


def compare_quality(root: Path, options: argparse.Namespace) -> None:
    """Prints the seconds until the peer's best recall is passed."""
    data, run_dir = root / "data", root / "run"
    twotower("dataset", "gowalla", f"--source={options.source}", f"--output={data}")
    chosen = root / "lists.json"
    chosen.write_text(configuration.to_json(lists(data)))
    twotower("prepare", f"--config={chosen}", f"--run_dir={run_dir}")
    config_file = run_dir / "config.json"
    theirs = run_alone(train_peer, run_dir, config_file, options.users, options.peer_epochs, options.batch)
    best = max(theirs, key=lambda point: point["recall"])
    mine = run_alone(train_own, run_dir, config_file, options.users, best["recall"])
    last = mine[-1]
    if last["recall"] <= best["recall"]:
        raise SystemExit(f"recall@20 {best['recall']:.4f} of the peer was not passed; curve: {mine}")
    setting = (
        f"gowalla, validation recall@20 of {options.users:,} users: peer's best of {len(theirs)} epochs "
        f"{best['recall']:.4f} (epoch {best['epoch']}), passed with {last['recall']:.4f} in epoch {last['epoch']}"
    )
    ratio = best["processor_seconds"] / last["processor_seconds"]
    more = {"wall_ratio": round(best["seconds"] / last["seconds"], 2), "ours_curve": mine, "peer_curve": theirs}
    figures = round(last["processor_seconds"], 1), round(best["processor_seconds"], 1)
    print_comparison("time_to_quality", *figures, "processor seconds of training", setting, ratio=ratio, **more)


def lists(root: Path) -> ExperimentConfig:
    """A user is the mean of all places visited, of 128 dimensions: what `init` proposes for lists of ids."""
    return ExperimentConfig(
        name="lists",
        data=DataConfig(root=str(root), events="events.parquet", timestamp="", split=GivenSplit(column="split")),
        item_features=(Hash("item_id", buckets=400_000, hashes=2),),
        user_features=(History(of="item_id", length=1000),),
        model=ModelConfig(embedding_dim=128, vector_dim=128, combine="add"),
        loss=BilateralSoftmax(),
        sampling=SamplingConfig(negatives=(Uniform(per_positive=4096, shared=True),)),
        train=TrainConfig(
            rows="user",
            batch_size=256,
            epochs=20,
            initial_lr=0.005,
            table_optimizer=LazyAdam(initial_lr=0.005),
            lr_decay_rate=0.89,
        ),
        evaluation=EvaluationConfig(ks=(K,), query="user"),
    )


def sequences(root: Path) -> ExperimentConfig:
    """Two SASRec blocks over the made sequences, softmax over all items."""
    return ExperimentConfig(
        name="sequences",
        data=DataConfig(root=str(root), events="events.csv", split=RandomSplit(0.0, 0.0)),
        item_features=(Hash("item_id", buckets=4 * ITEMS),),
        user_features=(History(of="item_id", length=LENGTH, encoder=SelfAttention(dropout=0.1)),),
        model=ModelConfig(embedding_dim=WIDTH, vector_dim=WIDTH),
        sampling=SamplingConfig(negatives=(Catalogue(),)),
        loss=FullSoftmax(),
        train=TrainConfig(rows="sequence", batch_size=BATCH, monitor=""),
    )


def time_sequences(run_dir: Path, config_file: Path) -> dict[str, float]:
    """Trains epochs of the made sequences; returns positions and seconds."""
    from twotower_tf.features.arrays import EncodedData
    from twotower_tf.features.encode_rows import encode
    from twotower_tf.prepare.prepared import Prepared
    from twotower_tf.train.batches import Batches
    from twotower_tf.train.training_loop import compile_model, share_cores

    share_cores()
    config, prepared = configuration.load(config_file), Prepared.open(run_dir)
    encode(config, prepared)
    batches = Batches(config, prepared, EncodedData(config, prepared))
    model, dataset = compile_model(config, batches.steps), batches.dataset(0)
    watch = Stopwatch()
    for counted in (False, True):  # the first steps trace and compile
        steps = EPOCHS * batches.steps if counted else 5
        watch.start() if counted else None
        model.fit(dataset, steps_per_epoch=steps, verbose=0)
        watch.stop() if counted else None
    positions = EPOCHS * batches.steps * batches.events
    return {"positions": positions, "seconds": watch.seconds, "processor_seconds": watch.processor}


def compare_sequences(root: Path, python: str) -> None:
    """Prints the positions per second next to RecTools', where that is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-W", "ignore", "-c"]
    tried = subprocess.run([*command, "import rectools.models.nn"], capture_output=True, text=True, env=environment)
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"sequences: left out; {python} has no 'rectools[torch]' (--rectools_python): {reason}", file=sys.stderr)
        return
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, ITEMS + 1)
    users = np.repeat(np.arange(USERS), LENGTH + 1)
    table = {
        "user_id": np.char.add("u", users.astype(str)),
        "item_id": np.char.add("i", rng.choice(ITEMS, len(users), p=shares / shares.sum()).astype(str)),
        "timestamp": 1_700_000_000 + 60 * np.arange(len(users)),
    }
    pacsv.write_csv(pa.table(table), root / "events.csv")
    (root / "config.json").write_text(configuration.to_json(sequences(root)), encoding="utf-8")
    twotower("prepare", f"--config={root}/config.json", f"--run_dir={root}/run")
    mine = run_alone(time_sequences, root / "run", root / "run" / "config.json")
    print("twotower_tf", mine, file=sys.stderr, flush=True)
    numbers = [str(each) for each in (LENGTH, BATCH, WIDTH, EPOCHS)]
    command += [RECTOOLS, str(root / "events.csv"), *numbers]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    seconds, processor = json.loads(done.stdout.splitlines()[-1])
    theirs = EPOCHS * USERS * LENGTH
    setting = (
        f"two SASRec blocks, {WIDTH} dimensions, sequences of {LENGTH}, batch {BATCH}, softmax over {ITEMS:,} items; "
        "peer RecTools"
    )
    wall = (mine["positions"] / mine["seconds"]) / (theirs / seconds)
    figures = round(mine["positions"] / mine["processor_seconds"]), round(theirs / processor)
    print_comparison(
        "sequence_training", *figures, "positions per processor second", setting, wall_ratio=round(wall, 2)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="")
    parser.add_argument("--peer_epochs", type=int, default=5)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=4_096)
    parser.add_argument("--rectools_python", default=sys.executable)
    parser.add_argument("--only", default="gowalla,sequences")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        if "gowalla" in options.only and not options.source:
            print("gowalla: left out; --source names a folder of the publisher's files", file=sys.stderr)
        elif "gowalla" in options.only:
            compare_quality(root, options)
        if "sequences" in options.only:
            compare_sequences(root, options.rectools_python)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
