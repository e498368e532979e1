"""A click log of Avazu's shape, of any size: written in chunks, so that its memory does not depend on its length.

Cardinalities follow the public file of 40 million rows: an ad, site and app have thousands of values whatever the
size; there is a device for every fifteen events and an address for every six, with a long tail. One row in twelve is a
click; times rise hour by hour, as in the public file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, TimeSplit

CHUNK = 1_000_000
HOURS = 240
_FIXED = {
    "adid": 2_600, "site_id": 4_700, "site_domain": 7_700, "site_category": 26, "app_id": 8_500, "app_domain": 560,
    "app_category": 36, "device_type": 5, "device_conn_type": 4,
}  # fmt: skip
_SKEW = 2.5  # the u-th value's index is (uniform)^_SKEW of the cardinality: a power law


def write(path: Path, events: int, seed: int = 17) -> None:
    """Writes `events` rows of CSV."""
    rng = np.random.default_rng(seed)
    cardinalities = _FIXED | {"device_id": max(10, events // 15), "device_ip": max(10, events // 6)}
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ["click", "hour", *cardinalities]
    schema = pa.schema([(name, pa.string() if name not in ("click", "hour") else pa.int64()) for name in columns])
    options = pacsv.WriteOptions(quoting_style="none")
    with path.open("wb") as file, pacsv.CSVWriter(file, schema, write_options=options) as writer:
        for start in range(0, events, CHUNK):
            rows = min(CHUNK, events - start)
            hours = (start + np.arange(rows)) * HOURS // events
            arrays = [
                pa.array((rng.random(rows) < 1 / 12).astype(np.int64)),
                pa.array(14102100 + hours // 24 * 100 + hours % 24),
            ]
            for name, size in cardinalities.items():
                index = (rng.random(rows) ** _SKEW * size).astype(np.uint64)
                arrays.append(_small(index) if size < 10 else _hex(index, len(name)))
            writer.write_table(pa.table(arrays, schema=schema))


def _small(index: np.ndarray) -> pa.Array:
    return pa.array(index.astype(np.int64)).cast(pa.string())


def _hex(index: np.ndarray, salt: int) -> pa.Array:
    """Eight hexadecimal digits, one text per index: an odd factor permutes the 32-bit numbers."""
    codes = ((index + np.uint64(salt * 7919)) * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    nibbles = (codes[:, np.newaxis] >> np.arange(28, -1, -4, dtype=np.uint64)) & np.uint64(15)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.astype(np.uint8)]
    offsets = np.arange(0, 8 * len(index) + 1, 8, dtype=np.int32)
    return pa.StringArray.from_buffers(len(index), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits)))


def config(root: Path) -> ExperimentConfig:
    """The textbook model's eleven hash columns, and a history of twenty."""
    item = ("adid", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category")
    user = ("device_id", "device_ip", "device_type", "device_conn_type")
    return ExperimentConfig(
        name="avazu-shaped",
        data=DataConfig(
            root=str(root), events="events.csv", user_id="device_id", item_id="adid", timestamp="hour", label="click",
            timestamp_format="%y%m%d%H", split=TimeSplit(valid_fraction=0.1, test_fraction=0.1),
        ),
        item_features=tuple(Hash(name, buckets=10_000) for name in item),
        user_features=(*(Hash(name, buckets=10_000) for name in user), History(of="adid", length=20)),
    )  # fmt: skip
