"""Users per second of the whole `twotower score`, compared with the usual script and with the machine's limits.

    python benchmarks/score.py [--users=10000000] [--items=50] [--k=10] [--peer_users=200000] [--keep=DIR]
    python benchmarks/score.py --items=10000 --k=100
    python benchmarks/score.py --items=1000000 --k=100 --users=1000000 [--workers=N]
    python benchmarks/score.py --users=150000000 --peer_users=0

Users have ten text columns (ids that are all different, and columns of 5 to 100,000 values), in Parquet files of a
million; answers are Parquet. The time is that of the command: start of Python, checks of the bundle and loading
included. The bundle comes from the package's own prepare, train and export of a few thousand events. 150
million users need about 3 GB for the input and 8 GB for the answers; both are deleted unless `--keep` says where.

The usual script, in its own process with all cores: pandas reads, `model.predict` in chunks of 100,000, NumPy's
`argpartition`, a data frame of lists per chunk, `pandas.concat`, Parquet. The machine's limits, on the same data and
all cores at once: TensorFlow hashes every value of every column; NumPy multiplies the tower's and the items' matrices;
Arrow reads the input and writes the answers. Where the index is ScaNN's, its own batch rate is one more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from comparison import print_comparison

from twotower_tf import config as configuration
from twotower_tf.config import (
    DataConfig,
    ExperimentConfig,
    Hash,
    InBatch,
    InBatchSoftmax,
    IndexConfig,
    ModelConfig,
    RandomSplit,
    SamplingConfig,
    TrainConfig,
)

VALUES = (5, 20, 50, 200, 1_000, 5_000, 20_000, 100_000, 200)
EVENTS = 5_000
PER_FILE, PER_GROUP = 1_000_000, 1 << 17
MEASURED = 131_072  # users by which the limits are measured

PEER = """
import sys, time
import numpy as np, pandas as pd, tensorflow as tf, tf_keras as keras
bundle, users, output, k, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
started = time.perf_counter()
loaded = tf.saved_model.load(bundle)

class Tower(keras.Model):
    def call(self, inputs):
        return loaded.signatures["serving_default"](**inputs)["user_vector"]

model = Tower()
lines = [line.rstrip("\\n").split("\\t") for line in open(bundle + "/item_embeddings.tsv", encoding="utf-8")]
ids = np.array([line[0] for line in lines])
items = np.array([line[1].split(",") for line in lines], np.float32)
frame = pd.read_parquet(users)[:count]
parts = []
for start in range(0, len(frame), 100_000):
    chunk = frame[start : start + 100_000]
    inputs = {name: tf.constant(chunk[name].to_numpy(object)) for name in chunk.columns}
    vectors = model.predict(tf.data.Dataset.from_tensor_slices(inputs).batch(4096), verbose=0)
    for block in range(0, len(vectors), 4096):
        scores = vectors[block : block + 4096] @ items.T
        best = np.argpartition(-scores, min(k, len(ids) - 1), axis=1)[:, :k]
        found = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-found, axis=1)
        best, found = np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)
        names = chunk["user_id"].to_numpy()[block : block + 4096]
        parts.append(pd.DataFrame({"user_id": names, "item_ids": list(ids[best]), "scores": list(found)}))
pd.concat(parts).to_parquet(output)
print(count / (time.perf_counter() - started))
"""

LIMITS = """
import json, os, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
pa.set_cpu_count(1)
users, answers, scratch = sys.argv[1], sys.argv[2], sys.argv[3] + str(os.getpid())
items, dim = int(sys.argv[4]), int(sys.argv[5])
import tensorflow as tf

table = pq.read_table(users, use_threads=False).slice(0, {measured})
parts = pq.read_table(answers, use_threads=False).slice(0, {measured}).combine_chunks()
columns = [tf.constant(column.cast(pa.binary()).to_numpy(zero_copy_only=False)) for column in table.columns]
rng = np.random.default_rng(0)
shapes = [(len(columns) * 16, 128), (128, 64), (64, dim), (dim, items)]
weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]

def hashes():
    for column in columns:
        tf.strings.to_hash_bucket_fast(column, 1_000_000)

def products():
    x = rng.normal(size=(2048, shapes[0][0])).astype(np.float32)
    for start in range(0, {measured}, 2048 * scale):
        y = x
        for weight in weights:
            y = y @ weight

def parquet():
    pq.ParquetFile(users).read_row_group(0, use_threads=False)
    pq.write_table(parts, scratch, write_statistics=False)

scale = max(1, items // 2000)
rates = dict()
for name, work in (("hash", hashes), ("matrix product", products), ("Parquet", parquet)):
    work()
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    users_done = -(-{measured} // (2048 * scale)) * 2048 if work is products else {measured}
    rates[name] = users_done / float(np.median(taken))
os.unlink(scratch)
print(json.dumps(rates))
""".replace("{measured}", str(MEASURED))


def experiment(root: Path, items: int, k: int) -> ExperimentConfig:
    users = (Hash("user_id", buckets=1_000_000), *(Hash(f"f{n}", buckets=4 * v) for n, v in enumerate(VALUES)))
    return ExperimentConfig(
        name="score",
        data=DataConfig(root=str(root), events="events.csv", items="items.csv", timestamp="", split=RandomSplit()),
        item_features=(Hash("item_id", buckets=4 * items),),
        user_features=users,
        model=ModelConfig(embedding_dim=16, vector_dim=32, item_hidden=(64,), user_hidden=(128, 64)),
        sampling=SamplingConfig(negatives=(InBatch(),)),
        loss=InBatchSoftmax(),
        train=TrainConfig(batch_size=1024, epochs=1, monitor=""),
        index=IndexConfig(k=k),
    )


def users(start: int, count: int) -> pa.Table:
    """Makes users by number; the same number is always the same user."""
    rng = np.random.default_rng(start)
    columns = {"user_id": pa.array(np.char.add("u", np.char.zfill(np.arange(start, start + count).astype(str), 9)))}
    for number, values in enumerate(VALUES):
        texts = pa.array([f"value{value}" for value in range(values)])
        codes = pa.array((values * rng.random(count) ** 2).astype(np.int32))  # few values are many users'
        columns[f"f{number}"] = pa.DictionaryArray.from_arrays(codes, texts).dictionary_decode()
    return pa.table(columns)


def write_users(directory: Path, count: int) -> None:
    """Writes files of so many users; files that exist already are used again."""
    directory.mkdir(exist_ok=True)
    wanted = {
        f"part-{start // PER_FILE:05d}-{min(PER_FILE, count - start)}.parquet": start
        for start in range(0, count, PER_FILE)
    }
    for path in directory.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, start in wanted.items():
        if not (directory / name).exists():
            pq.write_table(
                users(start, min(PER_FILE, count - start)), directory / ".unfinished", row_group_size=PER_GROUP
            )
            (directory / ".unfinished").rename(directory / name)


def twotower(*arguments: str) -> str:
    """Runs a command; returns what it printed."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "twotower_tf", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
    )
    return done.stdout


def bundle(root: Path, items: int, k: int) -> Path:
    """Makes an exported bundle with a catalogue of this size, once per directory."""
    export_dir = root / "export"
    if export_dir.is_dir():
        return export_dir
    rng = np.random.default_rng(0)
    ids = [f"i{number:07d}" for number in range(items)]
    taken = pa.array([ids[item] for item in rng.integers(0, items, EVENTS)])
    pacsv.write_csv(users(0, EVENTS).append_column("item_id", taken), root / "events.csv")
    pacsv.write_csv(pa.table({"item_id": ids}), root / "items.csv")
    (root / "config.json").write_text(configuration.to_json(experiment(root, items, k)), encoding="utf-8")
    twotower("prepare", f"--config={root}/config.json", f"--run_dir={root}/run")
    twotower("train", f"--run_dir={root}/run")
    twotower("export", f"--run_dir={root}/run", f"--export_dir={export_dir}")
    return export_dir


def limits(root: Path, part: Path, answers: Path, items: int, cores: int) -> dict[str, float]:
    """Measures the users per second of each kind of work, with one process per core at the same time."""
    command = [sys.executable, "-c", LIMITS, str(part), str(answers), str(root / "limit"), str(items), "32"]
    one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")}
    environment = {**os.environ, **one, "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(cores)]
    found = [json.loads(each.communicate()[0].splitlines()[-1]) for each in running]
    return {name: sum(rates[name] for rates in found) for name in found[0]}


def scann_rate(export_dir: Path, root: Path, k: int, cores: int) -> float:
    """Measures the queries per second of ScaNN's own batch search, with the setting of the index and all cores."""
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.index.scann.scann_searcher import ScannSearcher

    bundle = Bundle.open(export_dir)
    searcher = bundle.searcher(cores)
    assert isinstance(searcher, ScannSearcher)
    queries = np.resize(bundle.sample_users, (100_000, searcher.items.dim))
    p = searcher.parameters
    native = searcher._native
    native.search_batched_parallel(queries[:1000], k, p.reorder, p.leaves_to_search)
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        native.search_batched_parallel(queries, k, p.reorder, p.leaves_to_search)
        rates.append(len(queries) / (time.perf_counter() - started))
    return float(np.median(rates))


def report(mine: float, peer: float, setting: str, **more: Any) -> None:
    print_comparison("score", round(mine), round(peer), "users/s", setting, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--peer_users", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 is as the command decides")
    parser.add_argument(
        "--keep", default="", help="directory for everything, kept; a bundle and users there are used again"
    )
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    root = Path(options.keep or tempfile.mkdtemp()).resolve() / f"items-{options.items}"
    root.mkdir(parents=True, exist_ok=True)
    try:
        export_dir = bundle(root, options.items, options.k)
        write_users(root / "users", options.users)
        shutil.rmtree(root / "answers", ignore_errors=True)
        flags = [f"--export_dir={export_dir}", f"--users={root}/users", f"--output={root}/answers", f"--k={options.k}"]
        flags.append(f"--workers={options.workers}")
        started = time.perf_counter()
        summary = json.loads(twotower("score", *flags).splitlines()[-1])
        seconds = time.perf_counter() - started
        assert summary["users"] == options.users
        mine = options.users / seconds
        setting = f"{options.users:,} users of 10 text columns, {options.items:,} items, k={options.k}, {cores} cores"
        peak = {"seconds": round(seconds, 1), "peak_worker_gb": round(summary["peak_worker_bytes"] / 1e9, 2)}
        first = sorted((root / "users").iterdir())[0]
        if options.peer_users:
            version = str(next(path for path in export_dir.iterdir() if path.name.isdecimal()))
            numbers = [str(options.k), str(min(options.peer_users, options.users))]
            done = subprocess.run(
                [sys.executable, "-c", PEER, version, str(first), str(root / "peer.parquet"), *numbers],
                stdout=subprocess.PIPE, text=True, check=True, env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
            )  # fmt: skip
            report(mine, float(done.stdout.splitlines()[-1]), f"{setting}; peer: predict, argpartition, concat", **peak)
        answers = sorted((root / "answers").glob("part-*.parquet"))[0]
        rates = limits(root, first, answers, options.items if options.items <= 100_000 else 1, cores)
        if options.items > 100_000:
            rates["ScaNN"] = scann_rate(export_dir, root, options.k, cores)
        slowest = min(rates, key=rates.__getitem__)
        rounded = {name: round(rate) for name, rate in rates.items()}
        report(mine, rates[slowest], f"{setting}; peer: the machine's slowest limit, {slowest}", limits=rounded, **peak)
    finally:
        if not options.keep:
            shutil.rmtree(root.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
