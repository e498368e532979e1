"""Network bytes of a training step of several workers, against the number of table rows: they must not grow with them.

    python benchmarks/network_per_step.py [--rows=100000,10000000] [--workers=2] [--servers=0] [--steps=30]

The model and the random ids of step_cost_vs_table.py, batches of 1,024: for all workers together, or with parameter
servers for each worker, whose batches are steps of their own. The processes run on this machine; the bytes are those
that its loopback device received, in a network namespace of their own where `unshare` may make one (otherwise whatever
else uses the device is counted, too). One JSON line per size: bytes per step of all processes together at that size and
at 10^5 rows (`peer`); `table_bytes` is what a worker would send of tables as a whole.
With servers also the largest memory of a server, and what the plan of `train` says of it (`per_server`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import step_cost_vs_table
from comparison import print_comparison
from step_cost_vs_table import BATCH, COMPARED, DIM, HISTORY

from twotower_tf.train import training_memory

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


def serve(job: str, index: int) -> None:
    """Computes or holds tables for the chief, until its end."""
    import tensorflow as tf

    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    tf.distribute.Server(
        tf.train.ClusterSpec(cluster), job, index, config=tf.compat.v1.ConfigProto(inter_op_parallelism_threads=4)
    )
    sys.stdin.read()  # the chief's process ends it
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


def schedule(rows: int, steps: int) -> None:
    """Trains as the chief of workers and servers, and prints the bytes per step."""
    import numpy as np
    import tensorflow as tf

    from twotower_tf.model.embeddings import EmbeddingTable
    from twotower_tf.train.training_loop import compile_model
    from twotower_tf.train.workers import Workers

    cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
    spec = tf.train.ClusterSpec(cluster)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, "", "chief", 0, rpc_layer="grpc")
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    chief = Workers()
    chief.servers = len(cluster["ps"])
    with strategy.scope():
        model = compile_model(step_cost_vs_table.experiment(rows, "float32"), 1000, chief)
    for table in model.layers:
        if isinstance(table, EmbeddingTable):
            table.draw_rows(np.ones(table.rows, bool), seed=0)
    make = step_cost_vs_table.make_batch(rows)

    def compute(step: Any) -> Any:
        return strategy.run(model.update, args=(make(step),))["loss"]

    with strategy.scope():
        number = tf.TensorSpec([], tf.int64)
        compiled = tf.function(compute, input_signature=[number], autograph=False)
        compiled.get_concrete_function()

    def run(first: int, count: int) -> None:
        results = [coordinator.schedule(compiled, args=(tf.constant(first + step, tf.int64),)) for step in range(count)]
        for each in results:
            each.fetch()

    run(0, 10)
    before = received()
    run(10, steps)
    print(json.dumps((received() - before) / steps), flush=True)


def received() -> int:
    """Returns the bytes that the loopback device has received."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))


def measure(rows: int, workers: int, servers: int, steps: int) -> tuple[float, int]:
    """Starts the processes of one size; returns the bytes per step, and the largest memory of a server."""
    jobs = {"chief": 1, "worker": workers, "ps": servers} if servers else {"worker": workers}
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(sum(jobs.values()))]
    free = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cluster = {job: [free.pop() for _ in range(count)] for job, count in jobs.items()}
    processes: dict[str, list[subprocess.Popen[str]]] = {}
    for job, count in jobs.items():
        for index in range(count):
            place = {"cluster": cluster, "task": {"type": job, "index": index}}
            command = [sys.executable, __file__, f"--rows={rows}", f"--workers={workers}", f"--steps={steps}"]
            environment = {**os.environ, "TF_CONFIG": json.dumps(place), "TF_CPP_MIN_LOG_LEVEL": "3"}
            started = subprocess.Popen(
                [*command, f"--servers={servers}", f"--index={index}", f"--job={job}"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if servers else None,
                text=True,
            )
            processes.setdefault(job, []).append(started)
    first = processes["chief" if servers else "worker"][0]
    result = float(json.loads((first.stdout or sys.stdin).readline()))
    printed = [each.communicate(timeout=500)[0] for job in ("worker", "ps", "chief") for each in processes.get(job, [])]
    peaks = [int(each) for each in printed[workers : workers + servers]] if servers else []
    return result, max(peaks, default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=f"{COMPARED},10000000")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--servers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--job", default="worker", help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.index is not None and options.servers:
        if options.job == "chief":
            schedule(int(options.rows), options.steps)
        else:
            serve(options.job, options.index)
        os._exit(0)
    if options.index is not None:
        work(options.index, options.workers, int(options.rows), options.steps)
        return
    if _ALONE not in os.environ and shutil.which("unshare") and shutil.which("ip"):
        inside = ["sh", "-c", 'ip link set lo up && exec "$0" "$@"', sys.executable, *sys.argv]
        if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode == 0:
            sys.exit(subprocess.call(["unshare", "-rn", *inside], env={**os.environ, _ALONE: "1"}))
    counts = options.workers, options.servers, options.steps
    peer = measure(COMPARED, *counts)
    for rows in map(int, options.rows.split(",")):
        found = peer if rows == COMPARED else measure(rows, *counts)
        more = {}
        if options.servers:
            plan = training_memory.estimate_memory(step_cost_vs_table.experiment(rows, "float32"), 0)
            more = {"server_peak": found[1], "per_server": plan.serve(options.servers).per_server}
        print_comparison(
            "network_per_step",
            round(found[0]),
            round(peer[0]),
            unit="bytes per step, all workers",
            setting=f"{rows:,} rows of {DIM} float32, batch {BATCH:,}, {options.workers} workers, "
            f"{options.servers} servers, peer {COMPARED:,}",
            table_bytes=rows * DIM * 4,
            own_namespace=_ALONE in os.environ,
            **more,
        )


if __name__ == "__main__":
    main()
