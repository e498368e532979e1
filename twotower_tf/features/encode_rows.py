"""Encodes the prepared rows into the arrays that training reads.

The encoding has the results of `TowerEncoder.encode`, which exported towers run; a training compares them first
(`encoding_check`). Arrays are plain `.npy` files that
several workers can map and read by row ranges. Parts are encoded in parallel and written in order; memory is that of a
few parts, whatever the log's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf import artifacts, resources
from twotower_tf import config as configuration
from twotower_tf.artifacts import SPLITS
from twotower_tf.config import ExperimentConfig, feature_columns
from twotower_tf.features.array_writer import SCHEMA_VERSION, ArrayWriter
from twotower_tf.features.catalogue_versions import load
from twotower_tf.features.column_encoder import ColumnEncoder, encode_dictionary
from twotower_tf.features.layout import IDS, Layout
from twotower_tf.prepare.prepared import Prepared, read_columns
from twotower_tf.progress import Progress, silent
from twotower_tf.tables.arrow_numbers import view_as_arrow, view_as_numpy
from twotower_tf.threads import map_ahead

_CATALOGUE_ROWS = 1 << 18
_WORKERS = 2

S = TypeVar("S")
Arrays = dict[str, np.ndarray]


def encode(config: ExperimentConfig, prepared: Prepared, progress: Progress = silent, threads: int = 0) -> None:
    """Writes `prepared/encoded/`: the catalogue, the versions of its items, and each split's users, as arrays.

    Files are named by the keys of the encoded tensors; the manifest's `values` says which feature has which key.

    At most two parts are encoded at once; `threads` of 0 takes one per core.
    """
    root = prepared.paths.encoded_items.parent
    workers = min(_WORKERS, threads or resources.count_cpus())
    with artifacts.atomic_directory(root, replace=True) as staging:
        total = prepared.num_items + sum(prepared.num_rows(split) for split in SPLITS) + _version_rows(prepared)
        done = 0
        for rows in _EncodingRun(config, prepared, staging, workers).steps():
            done += rows
            progress("encode", done, total)
        document = {
            "schema_version": SCHEMA_VERSION,
            "config_fingerprint": configuration.fingerprint(config, configuration.PREPARED),
            "values": {"user": Layout(config, "user").values, "item": Layout(config, "item").values},
        }
        artifacts.write_json(staging / "manifest.json", document)


def _version_rows(prepared: Prepared) -> int:
    return sum(pq.read_metadata(path).num_rows for path in prepared.version_parts())


class _EncodingRun:
    """One encoding of a preparation."""

    def __init__(self, config: ExperimentConfig, prepared: Prepared, staging: Path, workers: int) -> None:
        self._prepared = prepared
        self._staging = staging
        self._workers = workers
        self._item, self._user = (ColumnEncoder(config, prepared.statistics, side) for side in ("item", "user"))
        self._varying = prepared.manifest["item_columns_as_of"]
        self._time = config.data.timestamp
        self._catalogue = prepared.items(list(self._item.inputs))
        # Crosses of a column that varies with one that does not need the latter's values version by version.
        self._coded = {
            name: encode_dictionary(self._catalogue[name]) for name in self._item.inputs if self._mixed(name)
        }
        self._items: Arrays = {}
        self._own, self._users = self._encode_users()

    def _mixed(self, name: str) -> bool:
        """Returns whether a column that does not vary with time is in a feature together with one that does."""
        features = [feature_columns(each) for group in self._item.groups.values() for each in group]
        return name not in self._varying and any(
            name in columns and not set(columns).isdisjoint(self._varying) for columns in features
        )

    def _encode_users(self) -> tuple[dict[int, np.ndarray], pa.Table]:
        """Encodes what depends on the user alone, once per user.

        Returns:
            ids `[num_users, 1]` by place among the single-valued features, and the columns of users that other
            features have, such as a cross with the user's id.
        """
        columns = [name for name in self._prepared.manifest["user_columns_by_row"] if name in self._user.inputs]
        table = read_columns(self._prepared.paths.users, [f"user.{name}" for name in columns])
        table = table.rename_columns(columns)
        own = {
            place: self._user.encode_feature(feature, {name: table[name] for name in columns})
            for place, feature in enumerate(self._user.groups.get(IDS, ()))
            if set(columns).issuperset(feature_columns(feature))
        }
        others = [
            each
            for key, group in self._user.groups.items()
            for place, each in enumerate(group)
            if key != IDS or place not in own
        ]
        return own, table.select([name for name in columns if any(name in feature_columns(each) for each in others)])

    def steps(self) -> Iterator[int]:
        """Encodes everything; yields the rows of each step."""
        total = self._prepared.num_items
        starts = range(0, total, _CATALOGUE_ROWS)
        yield from self._write(self._staging / "items", total, starts, self._encode_items)
        self._items = load(self._staging / "items")
        if self._varying:
            yield from self._write_versions()
        for split in SPLITS:
            (self._staging / split).mkdir(exist_ok=True)
            parts = self._prepared.parts(split)
            yield from self._write(self._staging / split, self._prepared.num_rows(split), parts, self._encode_part)

    def _write_versions(self) -> Iterator[int]:
        parts = self._prepared.version_parts()
        yield from self._write(self._staging / "versions", _version_rows(self._prepared), parts, self._encode_versions)
        index = pa.concat_tables([read_columns(path, ["item_row", "since"]) for path in parts])
        starts = np.searchsorted(view_as_numpy(index["item_row"]), np.arange(self._prepared.num_items + 1))
        directory = self._staging / "version_index"
        directory.mkdir()
        np.save(directory / "starts.npy", starts.astype(np.int64))
        np.save(directory / "since.npy", view_as_numpy(index["since"]))

    def _write(self, directory: Path, total: int, jobs: Iterable[S], encode: Callable[[S], Arrays]) -> Iterator[int]:
        writers: dict[str, ArrayWriter] = {}
        for arrays in map_ahead(encode, jobs, self._workers):
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
        names = name_row_columns(self._user.inputs, self._time)
        by_row = self._prepared.manifest["user_columns_by_row"]
        read = [column for name, column in names.items() if name not in by_row]
        part = self._prepared.coded_part(path, list(dict.fromkeys(["user_row", *read])))
        rows = view_as_numpy(part["user_row"])
        columns = {name: part[column] for name, column in names.items() if name not in by_row}
        columns |= {name: self._users[name].take(part["user_row"]) for name in self._users.column_names}
        known = np.empty((len(rows), len(self._user.groups.get(IDS, ()))), np.int32)
        for place, ids in self._own.items():
            known[:, place] = ids[rows, 0]
        users = self._user.encode(columns, {IDS: known})
        return {f"user.{name}": array for name, array in users.items()}

    def _encode_versions(self, path: Path) -> Arrays:
        part = self._prepared.coded_part(path, ["item_row", *(f"item.{name}" for name in self._varying)])
        items = view_as_numpy(part["item_row"])
        columns = {name: part[f"item.{name}"] for name in self._varying}
        for name, (codes, values) in self._coded.items():
            columns[name] = pa.DictionaryArray.from_arrays(view_as_arrow(codes[items]), values)
        known = {name: array[items] for name, array in self._items.items()}
        return self._item.encode(columns, known)


def name_row_columns(inputs: Iterable[str], time: str) -> dict[str, str]:
    """Returns the columns of the training rows by the names of the user tower's inputs; `time` is the event's."""
    return {name: "timestamp" if name == time else f"user.{name}" for name in inputs}
