"""Prepared raw rows to encoded arrays, in bulk: what the training loop reads.

The encoding is `Side.encode`, the very operations of the exported towers. Arrays are plain `.npy` files that several
workers can map and read by row ranges. Parts are encoded side by side and written in order; memory is that of a few
parts, whatever the log's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from twotower_tf import artifacts, resources
from twotower_tf import config as configuration
from twotower_tf.config import ExperimentConfig
from twotower_tf.data.prepared import Prepared
from twotower_tf.features.array_writer import SCHEMA_VERSION, ArrayWriter
from twotower_tf.features.distinct import Encoder, code
from twotower_tf.features.inputs import values_keys
from twotower_tf.progress import Progress, silent

SPLITS = ("train", "valid", "test")
_CATALOGUE_ROWS = 1 << 18
_WORKERS = 2

S = TypeVar("S")
T = TypeVar("T")
Arrays = dict[str, np.ndarray]


def encode(config: ExperimentConfig, prepared: Prepared, progress: Progress = silent, threads: int = 0) -> None:
    """Writes `prepared/encoded/`: the catalogue, and each split's rows, as arrays.

    Item features that the log itself carries are encoded row by row as well, as they were at the event's time. Files
    are named by the keys of the encoded tensors; the manifest's `values` says which feature has which key.

    Args:
        config: the experiment.
        prepared: what to encode.
        progress: told of rows.
        threads: parts encoded at once, at most two; 0 takes one per core.
    """
    root = prepared.paths.encoded_items.parent
    workers = min(_WORKERS, threads or resources.cpus())
    with artifacts.atomic_directory(root, replace=True) as staging, ThreadPoolExecutor(workers) as pool:
        total = prepared.num_items + sum(prepared.num_rows(split) for split in SPLITS)
        done = 0
        for rows in _Run(config, prepared, staging, pool, workers).steps():
            done += rows
            progress("encode", done, total)
        document = {
            "schema_version": SCHEMA_VERSION,
            "config_fingerprint": configuration.fingerprint(config, configuration.PREPARED),
            "values": {"user": values_keys(config, "user"), "item": values_keys(config, "item")},
        }
        artifacts.write_json(staging / "manifest.json", document)


def event_item_columns(config: ExperimentConfig, prepared: Prepared) -> list[str]:
    """Item feature columns that the log carries, the item's own id excepted: that one the catalogue row tells."""
    return [name for name in prepared.manifest["item_columns_in_events"] if name != config.data.item_id]


class _Run:
    """One encoding of a preparation."""

    def __init__(
        self, config: ExperimentConfig, prepared: Prepared, staging: Path, pool: ThreadPoolExecutor, workers: int
    ) -> None:
        self._prepared = prepared
        self._staging = staging
        self._pool, self._workers = pool, workers
        self._item, self._user = (Encoder(config, prepared.statistics, side) for side in ("item", "user"))
        self._carried = event_item_columns(config, prepared)
        self._time = config.data.timestamp
        self._catalogue = prepared.items(list(self._item.inputs))
        # Crosses of a column of the log with one of the catalogue need the latter's values row by row.
        self._coded = {
            name: code(self._catalogue[name]) for name in self._item.inputs if self._carried and self._mixed(name)
        }
        self._items: Arrays = {}

    def _mixed(self, name: str) -> bool:
        """Whether a column of the catalogue stands in one feature with a column of the log."""
        features = [each for group in self._item.groups.values() for each in group if each.type == "Cross"]
        return name not in self._carried and any(
            name in each.columns and not set(each.columns).isdisjoint(self._carried) for each in features
        )

    def steps(self) -> Iterator[int]:
        """Encodes everything; yields the rows of each step."""
        total = self._prepared.num_items
        starts = range(0, total, _CATALOGUE_ROWS)
        yield from self._write(self._staging / "items", total, starts, self._encode_items)
        self._items = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted((self._staging / "items").glob("*.npy"))
        }
        for split in SPLITS:
            (self._staging / split).mkdir(exist_ok=True)
            parts = self._prepared.parts(split)
            yield from self._write(self._staging / split, self._prepared.num_rows(split), parts, self._encode_part)

    def _write(self, directory: Path, total: int, jobs: Iterable[S], encode: Callable[[S], Arrays]) -> Iterator[int]:
        writers: dict[str, ArrayWriter] = {}
        for arrays in in_order(self._pool, encode, jobs, self._workers):
            for name, array in arrays.items():
                if len(array):
                    writer = writers.setdefault(name, ArrayWriter(directory / f"{name}.npy", total))
                    writer.append(array)
            yield len(next(iter(arrays.values()), ()))
        for writer in writers.values():
            writer.close()

    def _encode_items(self, start: int) -> Arrays:
        rows = self._catalogue.slice(start, _CATALOGUE_ROWS)
        return self._item.encode({name: rows[name] for name in self._item.inputs})

    def _encode_part(self, path: Path) -> Arrays:
        names = {name: "timestamp" if name == self._time else f"user.{name}" for name in self._user.inputs}
        wanted = [*names.values(), "item_row", *(f"item.{name}" for name in self._carried)]
        part = self._prepared.coded_part(path, list(dict.fromkeys(wanted)))
        users = self._user.encode({name: part[column] for name, column in names.items()})
        arrays = {f"user.{name}": array for name, array in users.items()}
        if self._carried:
            items = part["item_row"].to_numpy()
            columns = {name: part[f"item.{name}"] for name in self._carried}
            for name, (codes, values) in self._coded.items():
                columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes[items]), values)
            known = {name: array[items] for name, array in self._items.items()}
            arrays |= {f"item.{name}": array for name, array in self._item.encode(columns, known).items()}
        return arrays


def in_order(pool: ThreadPoolExecutor, work: Callable[[S], T], jobs: Iterable[S], ahead: int) -> Iterator[T]:
    """`pool.map` that holds the results of no more than `ahead` jobs."""
    pending: deque[Future[T]] = deque()
    for job in jobs:
        pending.append(pool.submit(work, job))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
