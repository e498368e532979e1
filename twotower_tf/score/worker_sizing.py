"""Chooses the number of workers of a scoring, and the rows that each processes at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twotower_tf import resources
from twotower_tf.config import ExperimentConfig
from twotower_tf.index import topk
from twotower_tf.index.backends import get_backend
from twotower_tf.score import user_columns
from twotower_tf.score.score_options import Options
from twotower_tf.tables import duckdb_engine

SMALLEST = 4096  # rows at a time; a multiple of the tower's step, as every number of rows is
LARGEST = 1 << 16  # rows at a time
_TABLE_BYTES = 64 << 20  # of one table on its way through a worker
# Threads of a worker share a ScaNN index: what the processor's caches hold of it counts once, and searching is nearly
# all that a worker does. With more of them the rest, which has one thread, would show.
_SHARING = 8
_WORKER_BYTES = 700 << 20  # of a worker without its index: TensorFlow, tables on their way


@dataclass(frozen=True)
class Size:
    """Size of a worker pool: processes, the threads of each, and the memory limit of all together in bytes."""

    workers: int
    threads: int
    memory: float


def choose_workers(options: Options, manifest: Mapping[str, Any]) -> Size:
    """Returns as many workers as cores and memory allow for this bundle, or as the options say."""
    cores = topk.available_threads()
    limit = (
        float(duckdb_engine.parse_size(options.memory_limit)) if options.memory_limit else resources.total_memory() / 2
    )
    vectors = 4 * manifest["items"] * manifest["vector_dim"]
    backend = get_backend("exact" if options.vectors_only else manifest["index"]["kind"])
    each = _WORKER_BYTES + vectors * backend.vector_copies
    most = -(-cores // _SHARING) if backend.share_threads else cores
    workers = options.workers or max(1, min(most, int(limit // each)))
    return Size(workers, options.threads or max(1, cores // workers), limit)


def choose_rows(options: Options, manifest: Mapping[str, Any], config: ExperimentConfig) -> int:
    """Returns the rows at a time, so that a table has about 64 MB."""
    width = manifest["vector_dim"] * 4 + len(user_columns.list_feature_columns(config)) * 40
    width += 0 if options.vectors_only else options.k * 16
    found = 1 << ((_TABLE_BYTES // width).bit_length() - 1)
    return max(SMALLEST, min(LARGEST, int(found)))
