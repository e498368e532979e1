"""Time of a training step, and peak memory, against the number of table rows: a step's cost must not grow with them.

    python benchmarks/step_cost_vs_table.py [--rows=10000,100000,1000000,10000000,100000000] [--table_dtype=float32]

One hash column of 16 dimensions on each side, and a history of up to ten items that shares the items' table, in-batch
softmax, batches of 1,024 random ids. Every size trains in its own process and takes turns with one of 10^5 rows, so
that a busy machine slows both. One JSON line per size: milliseconds per step at that size and at 10^5 rows (`peer`);
the ratio is the median over rounds. `memory_ratio`: peak resident memory over 1.15 x (table + optimizer state) + 1.5
GB, which must stay below one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from comparison import print_comparison

from twotower_tf.config import (
    DataConfig,
    ExperimentConfig,
    Hash,
    History,
    InBatch,
    InBatchSoftmax,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
)

BATCH, DIM, HISTORY, COMPARED = 1024, 16, 10, 100_000


def experiment(rows: int, table_dtype: Any) -> ExperimentConfig:
    """Half the rows on each side."""
    return ExperimentConfig(
        name="rows",
        data=DataConfig(),
        item_features=(Hash("item_id", buckets=rows // 2),),
        user_features=(Hash("user_id", buckets=rows // 2), History(of="item_id", length=HISTORY)),
        model=ModelConfig(
            embedding_dim=DIM,
            vector_dim=32,
            item_hidden=(128, 64),
            user_hidden=(128, 64),
            table_dtype=table_dtype,
        ),
        sampling=SamplingConfig(negatives=(InBatch(),)),
        loss=InBatchSoftmax(temperature=0.05),
        train=TrainConfig(batch_size=BATCH, monitor=""),
    )


def make_batch(rows: int) -> Any:
    """Returns a function from a step's number, int64 `[]`, to a batch of random ids in the model's form."""
    import tensorflow as tf

    def batch(step: Any) -> Any:
        def ids(stream: int, columns: int, below: int) -> Any:
            seed = tf.stack([step, tf.constant(stream, tf.int64)])
            return tf.random.stateless_uniform([BATCH, columns], seed, 0, below, tf.int32)

        zeros, ones = tf.zeros([BATCH, 1]), tf.ones([BATCH, 1])
        own = tf.range(BATCH)
        read = tf.range(HISTORY) < ids(2, 1, HISTORY + 1)
        inputs = {
            "user_ids": ids(0, 1, rows // 2), "item_ids": ids(1, 1, rows // 2),
            "user_values0": tf.where(read, ids(3, HISTORY, rows // 2), -1),
            "positive_log_q": zeros, "column_log_q": zeros,
            "hits": tf.stack([own, own], axis=1), "sample_weight": ones,
        }  # fmt: skip
        return inputs, ones, ones

    return batch


def batches(rows: int) -> Any:
    """Makes batches of random ids, other ones at every step."""
    import tensorflow as tf

    from twotower_tf.train.batches import disable_autotuning

    return disable_autotuning(tf.data.Dataset.range(2**40).map(make_batch(rows)).prefetch(4))


def serve(connection: Connection, rows: int, table_dtype: str) -> None:
    """Trains the received number of steps and answers with seconds and peak resident memory, until it is 0."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from twotower_tf.model.embeddings import EmbeddingTable
    from twotower_tf.train.training_loop import compile_model, share_cores

    share_cores()  # as `twotower train` does
    begin = time.perf_counter()
    model, dataset = compile_model(experiment(rows, table_dtype), 1000), batches(rows)
    for table in model.layers:
        if isinstance(table, EmbeddingTable):  # random ids may read any row
            table.draw_rows(np.ones(table.rows, bool), seed=0)
    connection.send(time.perf_counter() - begin)
    while steps := connection.recv():
        begin = time.perf_counter()
        model.fit(dataset, steps_per_epoch=steps, verbose=0)
        connection.send((time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


class Size:
    """A model of some size, in its own process."""

    def __init__(self, rows: int, table_dtype: str) -> None:
        self._mine, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, rows, table_dtype))
        process.start()
        self.seconds_to_build = float(self._mine.recv())
        self.peak = 0
        self.step_ms(20)  # tracing and first touches of memory

    def step_ms(self, steps: int) -> float:
        """Returns the milliseconds per step over so many steps."""
        self._mine.send(steps)
        seconds, self.peak = self._mine.recv()
        return 1000.0 * float(seconds) / steps

    def close(self) -> None:
        """Ends the process."""
        self._mine.send(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000,10000000,100000000")
    parser.add_argument("--table_dtype", default="float32")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compared = Size(COMPARED, options.table_dtype)
    for rows in map(int, options.rows.split(",")):
        size = Size(rows, options.table_dtype)
        times = np.array(
            [[size.step_ms(options.steps), compared.step_ms(options.steps)] for _ in range(options.rounds)]
        )
        size.close()
        state = rows * DIM * (2 if options.table_dtype == "bfloat16" else 4) + rows * 4
        print_comparison(
            "step_cost_vs_table",
            *(round(float(median), 2) for median in np.median(times, axis=0)),
            unit="ms per step",
            setting=f"{rows:,} rows of {DIM} {options.table_dtype}, batch {BATCH:,}, peer {COMPARED:,} rows",
            ratio=float(np.median(times[:, 0] / times[:, 1])),
            seconds_to_build=round(size.seconds_to_build, 1),
            peak_bytes=size.peak,
            memory_ratio=round(size.peak / (1.15 * state + 1.5e9), 3),
        )
    compared.close()


if __name__ == "__main__":
    main()
