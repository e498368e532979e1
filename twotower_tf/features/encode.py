"""Prepared raw rows to encoded arrays, in bulk: what the training loop reads.

The encoding is `Side.encode`, the very operations of the exported towers. Arrays are plain `.npy` files that several
workers can map and read by row ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.config import ExperimentConfig
from twotower_tf.data.prepared import Prepared
from twotower_tf.features.encoder import Side
from twotower_tf.features.inputs import Input, SideName, objects, pad, split_texts
from twotower_tf.progress import Progress, silent

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
_ROWS_PER_BATCH = 65_536


def encode(config: ExperimentConfig, prepared: Prepared, progress: Progress = silent) -> None:
    """Writes `prepared/encoded/`: the catalogue, and each split's rows, as arrays.

    Item features that the log itself carries are encoded row by row as well, as they were at the event's time.
    """
    root = prepared.paths.encoded_items.parent
    with artifacts.atomic_directory(root, replace=True) as staging:
        total = prepared.num_items + sum(prepared.num_rows(split) for split in SPLITS)
        done = 0
        item, user = (Encoder(config, prepared.statistics, side) for side in ("item", "user"))
        catalogue = prepared.items()
        done += item.write(staging / "items", "", catalogue.to_batches(_ROWS_PER_BATCH), catalogue.num_rows)
        progress("encode", done, total)
        carried = event_item_columns(config, prepared)
        for split in SPLITS:
            rows = prepared.num_rows(split)
            for batch_rows in _write_split(staging / split, config, prepared, split, user, item, catalogue, carried):
                done += batch_rows
                progress("encode", done, total)
            if not rows:
                (staging / split).mkdir(exist_ok=True)
        fingerprint = configuration.fingerprint(config, configuration.PREPARED)
        document = {"schema_version": SCHEMA_VERSION, "config_fingerprint": fingerprint}
        artifacts.write_json(staging / "manifest.json", document)


def event_item_columns(config: ExperimentConfig, prepared: Prepared) -> list[str]:
    """Item feature columns that the log carries, the item's own id excepted: that one the catalogue row tells."""
    return [name for name in prepared.manifest["item_columns_in_events"] if name != config.data.item_id]


def _write_split(
    directory: Path,
    config: ExperimentConfig,
    prepared: Prepared,
    split: str,
    user: Encoder,
    item: Encoder,
    catalogue: pa.Table,
    carried: list[str],
) -> Iterable[int]:
    """Encodes one split batch by batch; yields the rows of each."""
    total = prepared.num_rows(split)
    writers = [ArrayWriter(directory, f"user.{name}", total) for name in user.names]
    item_writers = [ArrayWriter(directory, f"item.{name}", total) for name in item.names] if carried else []
    time_column = config.data.timestamp
    for batch in prepared.raw_batches(split, _ROWS_PER_BATCH):
        columns = {name.removeprefix("user."): batch[name] for name in batch.schema.names if name.startswith("user.")}
        if time_column:
            columns.setdefault(time_column, batch["timestamp"])
        for writer, array in zip(writers, user.encode(columns, batch.num_rows), strict=True):
            writer.append(array)
        if carried:
            rows = catalogue.take(batch["item_row"])
            values = {name: rows[name].combine_chunks() for name in rows.schema.names}
            values.update({name: batch[f"item.{name}"] for name in carried})
            for writer, array in zip(item_writers, item.encode(values, batch.num_rows), strict=True):
                writer.append(array)
        yield batch.num_rows
    for writer in (*writers, *item_writers):
        writer.close()


class Encoder:
    """`Side.encode` for Arrow columns."""

    def __init__(self, config: ExperimentConfig, statistics: Mapping[str, Any], side: SideName) -> None:
        self._side = Side(config, statistics, side)
        # A history's ids are looked up from the catalogue when batches are built: they are not stored row by row.
        self._histories = {each.name for each in self._side.inputs if each.keep_last}
        self.names = [name for name in self._side.layout.names() if name not in self._histories]
        self._encode = tf.function(self._side.encode, input_signature=[self._side.signature()], autograph=False)

    def encode(self, columns: Mapping[str, pa.Array], rows: int) -> list[np.ndarray]:
        """Arrow columns by source name to encoded arrays, in the order of `names`."""
        raw = {
            each.name: objects([b""] * rows).reshape(rows, 1)
            if each.name in self._histories
            else arrow_to_array(each, columns[each.name])
            for each in self._side.inputs
        }
        encoded = self._encode({name: tf.constant(value) for name, value in raw.items()})
        return [encoded[name].numpy() for name in self.names]

    def write(self, directory: Path, prefix: str, batches: Iterable[pa.RecordBatch], total: int) -> int:
        """Encodes batches into `directory`; returns the number of rows."""
        writers = [ArrayWriter(directory, f"{prefix}{name}", total) for name in self.names]
        done = 0
        for batch in batches:
            columns = {name: batch[name] for name in batch.schema.names}
            for writer, array in zip(writers, self.encode(columns, batch.num_rows), strict=True):
                writer.append(array)
            done += batch.num_rows
        for writer in writers:
            writer.close()
        return done


def arrow_to_array(spec: Input, column: pa.Array) -> Any:
    """An Arrow column as the raw NumPy array of an input; null is no value."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if spec.kind == "number":
        return pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy(zero_copy_only=False).astype(np.float32)
    if spec.kind == "time":
        return pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    if spec.kind == "text":
        return pc.fill_null(column.cast(pa.binary()), b"").to_numpy(zero_copy_only=False)
    coded = column.dictionary_encode()
    texts = [
        [part.encode() for part in split_texts(text or "", spec.separator)] for text in coded.dictionary.to_pylist()
    ]
    distinct = pad([*texts, []], spec)  # the last row, of no value, answers for nulls
    return distinct[pc.fill_null(coded.indices, len(texts)).to_numpy(zero_copy_only=False)]


class ArrayWriter:
    """Writes one `.npy` file row block by row block; a growing second dimension is padded with -1."""

    def __init__(self, directory: Path, name: str, rows: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{name}.npy"
        self._rows = rows
        self._blocks: np.memmap | None = None
        self._done = 0

    def append(self, block: np.ndarray) -> None:
        """Adds rows `[n, width]`."""
        if self._blocks is None or block.shape[1] > self._blocks.shape[1]:
            self._widen(block)
        assert self._blocks is not None
        self._blocks[self._done : self._done + len(block), : block.shape[1]] = block
        self._done += len(block)

    def _widen(self, block: np.ndarray) -> None:
        before = self._blocks
        wider = self._path.with_suffix(".wider")
        shape = (self._rows, block.shape[1])
        self._blocks = np.lib.format.open_memmap(wider, "w+", block.dtype, shape)
        if block.dtype == np.int32:
            self._blocks[:] = -1
        if before is not None:
            self._blocks[: self._done, : before.shape[1]] = before[: self._done]
        wider.replace(self._path)

    def close(self) -> None:
        """Flushes the file."""
        if self._blocks is not None:
            self._blocks.flush()
