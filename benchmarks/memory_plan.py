"""The memory plan of training, compared with the peak resident memory of a process that trains.

    python benchmarks/memory_plan.py [--events=200000] [--buckets=100000,4000000]

Avazu-shaped rows, the eleven hash columns of the textbook model; one JSON line per size of the largest columns.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import avazu_log
from comparison import print_comparison

from twotower_tf.config import Hash, InBatch, InBatchSoftmax, SamplingConfig, TrainConfig


def train(root: Path, run_dir: Path, buckets: int) -> dict[str, Any]:
    """Prepares and trains one epoch; returns the content of train.json."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from twotower_tf.features.encode_rows import encode
    from twotower_tf.prepare.preparation import prepare_log
    from twotower_tf.prepare.prepared import Prepared
    from twotower_tf.train import training_loop

    config = avazu_log.config(root)
    config = dataclasses.replace(
        config,
        item_features=tuple(Hash(each.column, buckets=buckets) for each in config.item_features),
        loss=InBatchSoftmax(),
        sampling=SamplingConfig((InBatch(),)),
        train=TrainConfig(batch_size=1024, epochs=1, monitor=""),
    )
    prepare_log(config, run_dir)
    encode(config, Prepared.open(run_dir))
    return training_loop.train(config, run_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--buckets", default="100000,4000000")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        avazu_log.write(root / "events.csv", options.events)
        for buckets in map(int, options.buckets.split(",")):
            # A new process each time: a process's peak memory never falls.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                report = pool.apply(train, (root, root / f"run-{buckets}", buckets))
            setting = f"{sum(report['table_rows'].values()):,} table rows of 16 dimensions, batch 1,024"
            figures = (report["planned_bytes"], report["peak_rss_bytes"])
            print_comparison("memory_plan", *figures, "bytes, predicted and measured", setting)


if __name__ == "__main__":
    main()
