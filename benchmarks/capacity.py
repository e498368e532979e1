"""Computes what a training by several workers needs: memory, network and time, from counts and one measured step.

    python benchmarks/capacity.py --table_rows=1000000000 --events=10000000000 --workers=16 --batch=65536
        --step_ms=30 --step_rows=4096 --reads=12 --gbit=25 [--servers=8]

Nothing is measured here. `--step_ms` is what `train.json` says of one process with a batch of `--step_rows` rows on a
machine like the workers; a worker's step takes as long for as many rows. Where rows share the batch's candidates,
measure with the batch that is planned: a row's time grows with the candidates that it meets. `--reads` is how many
distinct table rows a training row reads on average (ids of both sides and a history). One JSON line:

    memory_per_worker   table_rows x (4 x dim + 4 x slots) bytes, `slots` numbers of optimizer state per row
                        (RowwiseAdagrad 1, Adagrad dim, LazyAdam 2 x dim), and 12 bytes per weight of the towers
    sent_per_step       bytes that each worker sends in a step:
      tables            (workers - 1) x batch / workers x reads x (4 x dim + 4): gradients of rows, and their numbers
      vectors           (workers - 1) / workers x (batch + shared) x 4 x vector_dim x 3: once forwards, and the sum of
                        their gradients, which a ring sends twice
      towers            (workers - 1) / workers x weights x 4 x 2
    step_ms             step_ms x (batch / workers) / step_rows + sent_per_step x 8 / gbit: nothing overlaps
    events_per_second, hours_per_epoch

With --servers=N, parameter servers, `--batch` is that of each worker, whose step is its own:

    memory_per_server   table_rows / servers x (4 x dim + 4 x slots), and 12 bytes per weight of the towers
    memory_per_worker   61 x events bytes: the keys of the training rows, of which each worker draws its batches
    step                bytes between a worker and all servers in a step, both ways:
      tables            batch x reads x (8 x dim + 2 x 8): rows there, their gradients back, and their numbers twice
      towers            weights x 4 x 2
    step_ms             step_ms x batch / step_rows + step x 8 / gbit; or, where this is longer, what a server has to
                        send and receive for all workers: workers x step / servers x 8 / gbit

`benchmarks/network_per_step.py` measures these bytes: 2 workers, batch 1,024, 7 reads, 32-dimensional vectors.
"""

from __future__ import annotations

import argparse
import json

FLOAT = 4
NUMBER = 8  # of a table row
ROW_KEYS = 61  # bytes of a training row in memory, see train/training_memory.py


def plan(options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures by the names above."""
    workers, batch, dim = options.workers, options.batch, options.dim
    others = (workers - 1) / workers
    tables = others * batch * options.reads * (FLOAT * dim + FLOAT)
    vectors = others * (batch + options.shared) * FLOAT * options.vector_dim * 3
    towers = others * options.weights * FLOAT * 2
    sent = tables + vectors + towers
    computing = options.step_ms * batch / workers / options.step_rows
    sending = sent * 8 / (options.gbit * 1e9) * 1e3
    per_second = batch / (computing + sending) * 1e3
    return {
        "memory_per_worker": options.table_rows * FLOAT * (dim + options.slots) + 3 * FLOAT * options.weights,
        "sent_per_step": {"tables": round(tables), "vectors": round(vectors), "towers": round(towers)},
        "step_ms": {"computing": round(computing, 2), "sending": round(sending, 2)},
        "events_per_second": round(per_second),
        "hours_per_epoch": round(options.events / per_second / 3600, 2),
        "setting": vars(options),
    }


def plan_servers(options: argparse.Namespace) -> dict[str, object]:
    """Returns the figures of a training with parameter servers."""
    batch, dim, workers = options.batch, options.dim, options.workers
    tables = batch * options.reads * (2 * FLOAT * dim + 2 * NUMBER)
    towers = options.weights * FLOAT * 2
    computing = options.step_ms * batch / options.step_rows
    sending = (tables + towers) * 8 / (options.gbit * 1e9) * 1e3
    serving = sending * workers / options.servers
    per_second = workers * batch / max(computing + sending, serving) * 1e3
    return {
        "memory_per_server": round(options.table_rows / options.servers) * FLOAT * (dim + options.slots)
        + 3 * FLOAT * options.weights,
        "memory_per_worker": ROW_KEYS * options.events,
        "step": {"tables": round(tables), "towers": round(towers)},
        "step_ms": {"computing": round(computing, 2), "sending": round(sending, 2), "serving": round(serving, 2)},
        "events_per_second": round(per_second),
        "hours_per_epoch": round(options.events / per_second / 3600, 2),
        "setting": vars(options),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table_rows", type=int, required=True, help="of all tables together")
    parser.add_argument("--events", type=int, required=True, help="training rows of an epoch")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument(
        "--batch", type=int, required=True, help="train.batch_size: of all workers together, or of each with servers"
    )
    parser.add_argument("--step_ms", type=float, required=True, help="of one process, from train.json")
    parser.add_argument("--step_rows", type=int, required=True, help="train.batch_size of that process")
    parser.add_argument("--reads", type=float, default=12.0, help="distinct table rows that a training row reads")
    parser.add_argument("--shared", type=int, default=0, help="negatives that the batch shares")
    parser.add_argument("--dim", type=int, default=16, help="model.embedding_dim")
    parser.add_argument("--slots", type=int, default=1, help="numbers of optimizer state per table row")
    parser.add_argument("--vector_dim", type=int, default=32)
    parser.add_argument("--weights", type=int, default=30_000, help="of the towers")
    parser.add_argument("--gbit", type=float, default=10.0, help="of the network, per worker and second")
    parser.add_argument("--servers", type=int, default=0, help="parameter servers; 0: all workers have all tables")
    options = parser.parse_args()
    print(json.dumps(plan_servers(options) if options.servers else plan(options)))


if __name__ == "__main__":
    main()
