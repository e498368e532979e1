"""Users per second of `twotower score` with a self-attentive user tower, compared with its layers alone.

    python benchmarks/score_sequences.py [--users=100000] [--items=1000] [--k=10] [--length=50] [--dim=64]
                                         [--block=sasrec] [--hidden=0]

Every user has a history of `--length` items, as text, in one Parquet file; the tower has two blocks and one head.
Answers are Parquet. The time is that of the command: start of Python, checks of the bundle and loading included. So
`processor_seconds` of two numbers of users say what one user costs. The peer is the exported tower on encoded
histories, without reading, hashing, searching and writing, in one process per core. `request_ms` is the time of one
call of the tower with one user's items as text, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from comparison import print_comparison
from score import twotower

from twotower_tf import config as configuration
from twotower_tf.config import (
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    IndexConfig,
    ModelConfig,
    SamplingConfig,
    SelfAttention,
    TrainConfig,
)

EVENTS, EVENTS_PER_USER = 5_000, 10

LAYERS = """
import sys, time
import numpy as np, tensorflow as tf
from twotower_tf.score.user_tower import SEQUENCE_PLACES
length, items = int(sys.argv[2]), int(sys.argv[3])
loaded = tf.saved_model.load(sys.argv[1])
tower = loaded.signatures["from_encoded"]
(name,) = tower.structured_input_signature[1]
rows = max(1, SEQUENCE_PLACES // length)
ids = tf.constant(np.random.default_rng(0).integers(0, items, (rows, length)), tf.int32)
rates = []
for _ in range(8):
    started = time.process_time()
    for _ in range(5):
        tower(**{name: ids})
    rates.append(5 * rows / (time.process_time() - started))
print(np.median(rates[1:]))
"""

REQUEST = """
import sys, time
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
tower = loaded.signatures["serving_default"]
history = tf.constant([[f"i{number:07d}" for number in range(int(sys.argv[2]))]])
tower(history=history)
walls, started = [], time.process_time()
for _ in range(500):
    begun = time.perf_counter()
    tower(history=history)
    walls.append(time.perf_counter() - begun)
print(1000 * np.median(walls), 1000 * (time.process_time() - started) / 500)
"""


def experiment(root: Path, items: int, length: int, dim: int, encoder: SelfAttention, k: int) -> ExperimentConfig:
    """Users are their histories."""
    return ExperimentConfig(
        name="score_sequences",
        data=DataConfig(root=str(root), events="events.csv", items="items.csv"),
        item_features=(Hash("item_id", buckets=4 * items),),
        user_features=(History(of="item_id", length=length, encoder=encoder),),
        model=ModelConfig(embedding_dim=dim, vector_dim=dim),
        sampling=SamplingConfig(negatives=(InBatch(),)),
        loss=InBatchSoftmax(),
        train=TrainConfig(epochs=1, monitor=""),
        index=IndexConfig(k=k),
    )


def bundle(root: Path, config: ExperimentConfig, ids: list[str]) -> Path:
    """Makes a bundle from a few events."""
    taken = np.random.default_rng(0).integers(0, len(ids), EVENTS)
    events = {
        "user_id": [f"u{number // EVENTS_PER_USER}" for number in range(EVENTS)],
        "item_id": pa.array(ids).take(pa.array(taken)),
        "timestamp": 1_700_000_000 + 60 * np.arange(EVENTS),
    }
    pacsv.write_csv(pa.table(events), root / "events.csv")
    pacsv.write_csv(pa.table({"item_id": ids}), root / "items.csv")
    (root / "config.json").write_text(configuration.to_json(config), encoding="utf-8")
    twotower("prepare", f"--config={root}/config.json", f"--run_dir={root}/run")
    twotower("train", f"--run_dir={root}/run")
    twotower("export", f"--run_dir={root}/run", f"--export_dir={root}/export")
    return root / "export"


def write_users(path: Path, users: int, length: int, ids: list[str]) -> None:
    """Writes users with histories of random items."""
    taken = np.random.default_rng(1).integers(0, len(ids), users * length)
    offsets = pa.array(np.arange(0, users * length + 1, length, dtype=np.int32))
    histories = pa.ListArray.from_arrays(offsets, pa.array(ids).take(pa.array(taken)))
    pq.write_table(pa.table({"user_id": [f"u{number}" for number in range(users)], "history": histories}), path)


def measure(program: str, export_dir: Path, *arguments: int, processes: int = 1) -> list[list[float]]:
    """Runs a program with the bundle's version, each process on one thread; returns the numbers of its last lines."""
    version = str(next(path for path in export_dir.iterdir() if path.name.isdecimal()))
    one = {name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}
    command = [sys.executable, "-c", program, version, *map(str, arguments)]
    environment = {**os.environ, **one, "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(processes)]
    return [list(map(float, each.communicate()[0].splitlines()[-1].split())) for each in running]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--block", choices=("sasrec", "ligr"), default="sasrec")
    parser.add_argument("--hidden", type=int, default=0, help="units of the feed-forward layer; 0 for the block's own")
    options = parser.parse_args()
    encoder = SelfAttention(block=options.block, hidden=options.hidden or None)
    cores = len(os.sched_getaffinity(0))
    ids = [f"i{number:07d}" for number in range(options.items)]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        config = experiment(root, options.items, options.length, options.dim, encoder, options.k)
        export_dir = bundle(root, config, ids)
        write_users(root / "users.parquet", options.users, options.length, ids)
        flags = [f"--export_dir={export_dir}", f"--users={root}/users.parquet", f"--output={root}/answers"]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        summary = json.loads(twotower("score", *flags, f"--k={options.k}").splitlines()[-1])
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert summary["users"] == options.users
        spent = sum(getattr(after, kind) - getattr(before, kind) for kind in ("ru_utime", "ru_stime"))
        peer = sum(rate for (rate,) in measure(LAYERS, export_dir, options.length, options.items, processes=cores))
        ((wall, processor),) = measure(REQUEST, export_dir, options.length)
    setting = (
        f"{options.users:,} users with {options.length} past items, two {options.block} blocks of {options.dim} "
        f"dimensions, {options.hidden or 'default'} hidden, "
        f"{options.items:,} items, k={options.k}, {cores} cores; peer: the tower's layers"
    )
    more = {"seconds": round(seconds, 1), "processor_seconds": round(spent, 1), "load": os.getloadavg()[0]}
    more |= {"request_ms": round(wall, 2), "request_processor_ms": round(processor, 2)}
    print_comparison("score_sequences", round(options.users / seconds), round(peer), "users/s", setting, **more)


if __name__ == "__main__":
    main()
