"""Network bytes of a training step of several workers, against the number of table rows: they must not grow with them.

    python benchmarks/network_per_step.py [--rows=100000,10000000] [--workers=2] [--steps=30]

The model and the random ids of step_cost_vs_table.py, batches of 1,024 for all workers together. The workers train on
this machine; the bytes are those that its loopback device received, in a network namespace of their own where `unshare`
may make one (otherwise whatever else uses the device is counted, too). One JSON line per size: bytes per step of all
workers together at that size and at 10^5 rows (`peer`); `table_bytes` is what a worker would send of tables as a whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import step_cost_vs_table
from comparison import print_comparison
from step_cost_vs_table import BATCH, COMPARED, DIM, HISTORY

_ALONE = "TWOTOWER_NETWORK_ALONE"  # set in the namespace


def batches(rows: int, index: int, workers: int) -> Any:
    """Makes a worker's part of batches of random ids, other ones at every step."""
    import tensorflow as tf

    size = BATCH // workers

    def batch(step: Any) -> Any:
        def ids(stream: int, columns: int, below: int) -> Any:
            seed = tf.stack([step, tf.constant(10 * index + stream, tf.int64)])
            return tf.random.stateless_uniform([size, columns], seed, 0, below, tf.int32)

        zeros, ones, own = tf.zeros([size, 1]), tf.ones([size, 1]), tf.range(size)
        read = tf.range(HISTORY) < ids(2, 1, HISTORY + 1)
        inputs = {
            "user_ids": ids(0, 1, rows // 2), "item_ids": ids(1, 1, rows // 2),
            "user_values0": tf.where(read, ids(3, HISTORY, rows // 2), -1),
            "positive_log_q": zeros, "column_log_q": tf.zeros([size * workers, 1]),
            "hits": tf.stack([own, own + index * size], axis=1), "sample_weight": ones,
        }  # fmt: skip
        return inputs, ones, ones

    return tf.data.Dataset.range(2**40).map(batch)


def work(index: int, workers: int, rows: int, steps: int) -> None:
    """Trains as one worker; the first prints the bytes per step."""
    import numpy as np
    import tensorflow as tf

    from twotower_tf.train.batches import Shard
    from twotower_tf.train.training_loop import compile_model
    from twotower_tf.train.workers import Workers

    together = Workers(Shard(index, workers), tf.distribute.MultiWorkerMirroredStrategy())
    model = compile_model(step_cost_vs_table.experiment(rows, "float32"), 1000, together)
    dataset = batches(rows, index, workers)
    model.fit(dataset, steps_per_epoch=5, verbose=0)  # tracing
    together.sum(np.zeros(1))
    before = received()
    model.fit(dataset, steps_per_epoch=steps, verbose=0)
    together.sum(np.zeros(1))
    if index == 0:
        print(json.dumps((received() - before) / steps), flush=True)
    together.sum(np.zeros(1))


def received() -> int:
    """Returns the bytes that the loopback device has received."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))


def measure(rows: int, workers: int, steps: int) -> float:
    """Starts the workers of one size and returns the bytes per step."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    for index in range(workers):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, __file__, f"--rows={rows}", f"--workers={workers}", f"--steps={steps}"]
        environment = {**os.environ, "TF_CONFIG": json.dumps(place), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes.append(
            subprocess.Popen([*command, f"--index={index}"], env=environment, stdout=subprocess.PIPE, text=True)
        )
    printed = [process.communicate(timeout=500)[0] for process in processes]
    return float(json.loads(printed[0].splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=f"{COMPARED},10000000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--index", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index is not None:
        work(options.index, options.workers, int(options.rows), options.steps)
        return
    if _ALONE not in os.environ and shutil.which("unshare") and shutil.which("ip"):
        inside = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, *sys.argv]
        if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0:
            sys.exit(subprocess.call(["unshare", "-rn", *inside], env={**os.environ, _ALONE: "1"}))
    peer = measure(COMPARED, options.workers, options.steps)
    for rows in map(int, options.rows.split(",")):
        found = peer if rows == COMPARED else measure(rows, options.workers, options.steps)
        print_comparison(
            "network_per_step",
            round(found),
            round(peer),
            unit="bytes per step, all workers",
            setting=f"{rows:,} rows of {DIM} float32, batch {BATCH:,}, {options.workers} workers, peer {COMPARED:,}",
            table_bytes=rows * DIM * 4,
            own_namespace=_ALONE in os.environ,
        )


if __name__ == "__main__":
    main()
