"""The memory plan of training, compared with the peak resident memory of a process that trains.

    python benchmarks/memory_plan.py [--events=200000] [--buckets=100000,4000000] [--servers=0]

Avazu-shaped rows, the eleven hash columns of the textbook model; one JSON line per size of the largest columns, and one
for `export`, compared with the bytes of the tables: of its process or of the verification's, the larger one. With
servers, so many on this machine have the tables. The first line is of the chief then, which has a copy of the tables
and writes checkpoints; there is one more for the largest server.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import avazu_log
from comparison import print_comparison

from twotower_tf import artifacts, resources
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import (
    EvaluationConfig,
    ExperimentConfig,
    Hash,
    InBatch,
    InBatchSoftmax,
    SamplingConfig,
    TrainConfig,
)

DIM, FLOAT = 16, 4


def experiment(root: Path, buckets: int) -> ExperimentConfig:
    config = avazu_log.config(root)
    return dataclasses.replace(
        config,
        item_features=tuple(Hash(each.column, buckets=buckets) for each in config.item_features),
        model=dataclasses.replace(config.model, embedding_dim=DIM),
        loss=InBatchSoftmax(),
        sampling=SamplingConfig((InBatch(),)),
        train=TrainConfig(batch_size=1024, epochs=1, monitor=""),
        evaluation=EvaluationConfig(ks=(10,)),
    )


def prepare(config: ExperimentConfig, run_dir: Path) -> None:
    from twotower_tf.features.encode_rows import encode
    from twotower_tf.prepare.preparation import prepare_log
    from twotower_tf.prepare.prepared import Prepared

    prepare_log(config, run_dir)
    encode(config, Prepared.open(run_dir))


def train(config: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """Prepares and trains one epoch; returns the content of train.json."""
    from twotower_tf.train import training_loop

    prepare(config, run_dir)
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    return training_loop.train(config, run_dir)


def train_with_servers(config: ExperimentConfig, run_dir: Path, servers: int) -> dict[str, Any]:
    """Prepares and trains two epochs, the first of which is validated meanwhile; returns the content of train.json."""
    from twotower_tf.prepare.prepared import Prepared
    from twotower_tf.train import local_cluster, training_memory

    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=2, monitor="recall@10"))
    prepare(config, run_dir)
    artifacts.write_text(RunPaths(run_dir).config, configuration.to_json(config))
    local_cluster.run_cluster(1, [f"--run_dir={run_dir}"], servers=servers)
    plan = training_memory.plan_chief(config, Prepared.open(run_dir), servers, True, resources.available_memory())
    report: dict[str, Any] = artifacts.read_json(RunPaths(run_dir).train, "run directory")
    return report | {"planned_of_server": plan.per_server}


def export(run_dir: Path, export_dir: Path) -> int:
    """Exports as the command does; returns the larger peak memory in bytes, of this process or of verification's."""
    resources.release_freed_tensors()
    from twotower_tf.export.export_bundle import export

    export(configuration.load_run(run_dir), run_dir, export_dir)
    peaks = [resource.getrusage(whose).ru_maxrss for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * 1024


def call_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process: a process's peak memory never falls."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--buckets", default="100000,4000000")
    parser.add_argument("--servers", type=int, default=0)
    options = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        avazu_log.write(root / "events.csv", options.events)
        for buckets in map(int, options.buckets.split(",")):
            run_dir, config = root / f"run-{buckets}", experiment(root, buckets)
            if options.servers:
                sys.stdout.flush()
                report = call_in_process(train_with_servers, config, run_dir, options.servers)
            else:
                report = call_in_process(train, config, run_dir)
            rows = sum(report["table_rows"].values())
            setting = f"{rows:,} table rows of {DIM} dimensions, batch 1,024"
            figures = (report["planned_bytes"], report["peak_rss_bytes"])
            print_comparison("memory_plan", *figures, "bytes, predicted and measured", setting)
            if options.servers:
                others = report["processes_peak_rss_bytes"]
                largest = max(size for name, size in others.items() if name.startswith("ps"))
                figures = (report["planned_of_server"], largest)
                name = f"memory_plan, {options.servers} servers"
                print_comparison(name, *figures, "bytes, predicted and measured", setting)
            figures = (call_in_process(export, run_dir, root / f"export-{buckets}"), rows * DIM * FLOAT)
            print_comparison("memory_plan, export", *figures, "bytes, measured, and of the tables", setting)


if __name__ == "__main__":
    main()
