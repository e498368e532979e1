"""Converts lists `user item item ...`, one file per split: LightGCN's gowalla, the m1 split of MovieLens 1M, others.

Sources: He et al., LightGCN, SIGIR 2020 (the format); reczoo/Movielens1M_m1 (the m1 split).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from twotower_tf.artifacts import SPLITS
from twotower_tf.datasets.movielens import read_movies_1m, read_users_1m
from twotower_tf.datasets.raw_lines import read_lines, require_file, split_lines
from twotower_tf.errors import DataError
from twotower_tf.progress import Progress

_BATCH = 500_000
_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("split", pa.string())])
_ITEM_MAP, _USER_MAP = "m1_to_ml1m_items.csv", "m1_to_ml1m_users.csv"


def convert_lists(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts train.txt, test.txt and, where it exists, valid.txt."""
    files = {"train": require_file(source, "train.txt"), "test": require_file(source, "test.txt")}
    if (source / "valid.txt").is_file():
        files["valid"] = source / "valid.txt"
    return _write_events(files, output, progress)


def convert_gowalla(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts as `convert_lists`; train_part.txt and valid_part.txt, where both exist, replace train.txt."""
    parts = {"train": source / "train_part.txt", "valid": source / "valid_part.txt"}
    if all(path.is_file() for path in parts.values()):
        return _write_events({**parts, "test": require_file(source, "test.txt")}, output, progress)
    return convert_lists(source, output, progress)


def convert_m1(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts the m1 split of MovieLens 1M, with the movies' and users' columns where MovieLens 1M is available."""
    files = {"train": require_file(source, "train.txt"), "test": require_file(source, "test.txt")}
    valid = [name for name in ("valid.txt", "valid_recovered.txt") if (source / name).is_file()]
    if valid:
        files["valid"] = source / valid[0]
    places = [source, *(parent / name for parent in (source, source.parent) for name in ("movielens-1m", "ml-1m"))]
    movielens = next((place for place in places if (place / "movies.dat").is_file()), None)
    counts = _write_events(files, output, progress)
    if movielens is not None and (source / _ITEM_MAP).is_file():
        items = _joined(
            _mapping(require_file(source, _ITEM_MAP), "m1_item", "ml1m_movie_id", "item_id", "movie_id"),
            read_movies_1m(require_file(movielens, "movies.dat")),
            "movie_id",
        )
        users = _joined(
            _mapping(require_file(source, _USER_MAP), "m1_user", "ml1m_user_id", "user_id", "ml1m_user_id"),
            read_users_1m(require_file(movielens, "users.dat")).rename_columns({"user_id": "ml1m_user_id"}),
            "ml1m_user_id",
        )
        for name, table in (("items", items), ("users", users)):
            parquet.write_table(table, output / f"{name}.parquet")
            counts[name] = table.num_rows
    return counts


def _mapping(path: Path, key: str, value: str, key_name: str, value_name: str) -> pa.Table:
    """Reads a csv file with two columns of ids, as text."""
    lines = split_lines(path, ",", 2, header=f"{key},{value}")
    rows = [{key_name: own, value_name: published} for _, (own, published) in lines]
    return pa.Table.from_pylist(rows, pa.schema([(key_name, pa.string()), (value_name, pa.string())]))


def _joined(mapping: pa.Table, table: pa.Table, key: str) -> pa.Table:
    """Adds the columns of `table` to `mapping`, in the order of `mapping`."""
    rows = pc.index_in(mapping[key], table[key])
    for name in table.column_names:
        if name != key:
            mapping = mapping.append_column(name, table[name].take(rows))
    return mapping


def _write_events(files: dict[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Writes events.parquet from one list file per split, in bounded memory."""
    counts: dict[str, int] = {}
    with parquet.ParquetWriter(output / "events.parquet", _SCHEMA) as writer:
        for split in SPLITS:
            if split in files:
                counts[split] = _append(writer, files[split], split, sum(counts.values()), progress)
    return {"events": sum(counts.values()), "splits": counts}


def _append(writer: parquet.ParquetWriter, path: Path, split: str, before: int, progress: Progress) -> int:
    """Appends one file's pairs and returns their number."""
    users: list[str] = []
    items: list[str] = []
    written = 0

    def flush() -> int:
        columns = [pa.array(users, pa.string()), pa.array(items, pa.string()), pa.array([split] * len(users))]
        writer.write_table(pa.table(columns, schema=_SCHEMA))
        count = len(users)
        users.clear()
        items.clear()
        progress("lists", before + written + count, 0)
        return count

    for number, line in read_lines(path, "utf-8"):
        user, *listed = line.split()
        if not "".join((user, *listed)).isdecimal():
            odd = next(text for text in (user, *listed) if not text.isdecimal())
            raise DataError(f"{path}:{number}: invalid id {odd!r} (expected 'user item item ...' in whole numbers)")
        users.extend([user] * len(listed))
        items.extend(listed)
        if len(users) >= _BATCH:
            written += flush()
    if users:
        written += flush()
    if not written:
        raise DataError(f"{path}: no 'user item item ...' line with an item")
    return written
