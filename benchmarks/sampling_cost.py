"""Cost of negatives: milliseconds of a step with them, compared with the step of in-batch negatives alone.

    python benchmarks/sampling_cost.py [--events=200000] [--batch_size=4096] [--steps=60] [--threads=0]

In-batch softmax over the towers of the textbook model (see train_throughput.py) on a synthetic log. One JSON line per
kind of negative: milliseconds per step with it and without it (`peer`), and the share of time that steps waited for
their batches. Settings take turns, so that other load on the machine slows all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tf_keras as keras
from comparison import print_comparison

from twotower_tf.config import (
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    ModelConfig,
    Popularity,
    Queue,
    SameAttribute,
    SamplingConfig,
    TrainConfig,
    Uniform,
)
from twotower_tf.datasets.synthetic import write_synthetic_log
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.encode_rows import encode
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train.batches import Batches
from twotower_tf.train.callbacks import Clock
from twotower_tf.train.training_loop import compile_model

KINDS: dict[str, tuple[Any, ...]] = {
    "in-batch": (),
    "1,000 shared, uniform": (Uniform(1000, shared=True),),
    "1,000 shared, popularity": (Popularity(1000, shared=True),),
    "a queue of 1,000": (Queue(size=1000),),
    "1 of each row's own, same category": (SameAttribute(columns=("category",)),),
}
_ROUNDS = 3


class Setting:
    """A model and its batches, ready to run."""

    def __init__(self, config: ExperimentConfig, run_dir: Path) -> None:
        prepared = Prepared.open(run_dir)
        self.batches = Batches(config, prepared, EncodedData(config, prepared))
        self.model = compile_model(config, self.batches.steps)
        self.dataset = self.batches.dataset(0)
        self.figures: list[dict[str, float]] = []

    def run(self, steps: int) -> None:
        """Times some steps; the clock leaves out the first ten."""
        clock = Clock(self.batches.batch_size)
        self.model.fit(self.dataset, steps_per_epoch=steps + 10, verbose=0, callbacks=[clock])
        self.figures.append(clock.figures())

    def median(self, name: str) -> float:
        """Returns the median of a figure over the rounds."""
        return statistics.median(figures[name] for figures in self.figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        root, run_dir = Path(scratch) / "data", Path(scratch) / "run"
        write_synthetic_log(root, events=options.events, users=options.events // 20, items=20_000, days=10, seed=3)
        base = ExperimentConfig(
            name="cost",
            data=DataConfig(root=str(root), events="events", items="items.csv", users="users.csv"),
            item_features=(
                Hash("item_id", buckets=40_000),
                Hash("category", buckets=200),
                Hash("advertiser", buckets=2_000),
            ),
            user_features=(Hash("user_id", buckets=40_000), Hash("country", buckets=100), History(of="item_id")),
            model=ModelConfig(embedding_dim=16, vector_dim=32, item_hidden=(128, 64), user_hidden=(128, 64)),
            loss=InBatchSoftmax(temperature=0.05),
            sampling=SamplingConfig((InBatch(),)),
            train=TrainConfig(batch_size=options.batch_size, monitor="", steps_per_execution=10),
        )
        prepare_log(base, run_dir)
        encode(base, Prepared.open(run_dir))
        made = {}
        for name, kinds in KINDS.items():
            keras.utils.set_random_seed(1)
            config = dataclasses.replace(base, sampling=SamplingConfig((InBatch(), *kinds)))
            made[name] = Setting(config, run_dir)
        for _ in range(_ROUNDS):
            for setting in made.values():
                setting.run(options.steps)
        without = made.pop("in-batch")
        for name, setting in made.items():
            steps = [each.median("step_ms") for each in (setting, without)]
            waits = [round(each.median("input_bound_fraction"), 3) for each in (setting, without)]
            print_comparison(
                "sampling_cost",
                *(round(step, 2) for step in steps),
                unit="ms per step",
                setting=f"{name}, batch {options.batch_size:,}",
                ratio=steps[0] / steps[1],
                input_bound_fraction=waits[0],
                input_bound_fraction_without=waits[1],
            )


if __name__ == "__main__":
    main()
