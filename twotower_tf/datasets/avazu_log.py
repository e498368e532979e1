"""Converts the Avazu click log: https://www.kaggle.com/c/avazu-ctr-prediction (train.gz, 40 million impressions)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from twotower_tf.errors import DataError
from twotower_tf.progress import Progress
from twotower_tf.tables.input_files import READ_ERRORS

HEADER = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)
COLUMNS = tuple(HEADER.split(","))
PUBLISHED = ("train.csv", "train.csv.gz", "train.gz", "train")
_SCHEMA = pa.schema([(name, pa.int8() if name == "click" else pa.string()) for name in COLUMNS])
_BLOCK_BYTES = 32 << 20


def convert_avazu(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts train.csv (or .gz) or, where it is missing, every .csv file with the same header, in order of names."""
    rows = 0
    with parquet.ParquetWriter(output / "events.parquet", _SCHEMA, compression="zstd") as writer:
        for path in _find_files(source):
            for batch in _read_batches(path):
                writer.write_batch(batch)
                rows += batch.num_rows
                progress("avazu", rows, 0)
    if not rows:
        raise DataError(f"--source: {source}: no rows")
    return {"events": rows}


def _find_files(source: Path) -> list[Path]:
    if source.is_file():
        header = _read_first_line(source)
        if header != HEADER:
            raise DataError(f"{source}:1: invalid header {header[:200]!r} (expected {HEADER!r})")
        return [source]
    for name in PUBLISHED:
        if (source / name).is_file():
            return _find_files(source / name)
    files = sorted(path for path in source.glob("*.csv") if _read_first_line(path) == HEADER)
    if not files:
        raise DataError(f"--source: {source}: no train.csv, train.gz or other .csv file with the header {HEADER!r}")
    return files


def _read_first_line(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.readline(1 << 16).decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n")
    except READ_ERRORS as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yields the rows of one file, as text columns and `click` as 0 or 1."""
    bad: list[csv.InvalidRow] = []

    def stop(row: csv.InvalidRow) -> str:
        bad.append(row)
        return "error"

    before = 0
    try:
        reader = csv.open_csv(
            path,
            # One thread: with more, malformed rows have no number.
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(invalid_row_handler=stop),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.string()), null_values=[""], strings_can_be_null=True
            ),
        )
        for batch in reader:
            yield _check_clicks(batch, path, before)
            before += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        if bad:
            raise DataError(
                f"{path}:{bad[0].number}: invalid row {bad[0].text[:200]!r} (expected {bad[0].expected_columns} "
                f"fields, got {bad[0].actual_columns})"
            ) from None
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def _check_clicks(batch: pa.RecordBatch, path: Path, before: int) -> pa.RecordBatch:
    """Converts `click` of a batch to numbers; `before` is the number of earlier rows in the file."""
    click = batch["click"]
    good = pc.fill_null(pc.is_in(click, pa.array(["0", "1"])), False)
    if not pc.all(good).as_py():
        row = pc.index(good, False).as_py()
        value = click[row].as_py() or ""
        raise DataError(f"{path}:{before + row + 2}: click: invalid value {value!r} (expected 0 or 1)")
    columns = [pc.equal(click, "1").cast(pa.int8()) if name == "click" else batch[name] for name in COLUMNS]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)
