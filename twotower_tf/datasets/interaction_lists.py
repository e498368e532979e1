"""Converts lists `user item item ...`: one file per split, or one file in the order of the events.

Sources: He et al., LightGCN, SIGIR 2020 (lists per split, gowalla); reczoo/Movielens1M_m1 (a split of MovieLens 1M);
Kang and McAuley, SASRec, ICDM 2018 (pairs in time order; lists in order are what many later papers publish).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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
_SEPARATORS = ("\t", ",", ";")  # of ordered lists; else blanks
_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("split", pa.string())])
_Columns = Sequence[Sequence[Any]]  # users, items, and splits or positions
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
        items = _join_columns(
            _read_mapping(require_file(source, _ITEM_MAP), "m1_item", "ml1m_movie_id", "item_id", "movie_id"),
            read_movies_1m(require_file(movielens, "movies.dat")),
            "movie_id",
        )
        users = _join_columns(
            _read_mapping(require_file(source, _USER_MAP), "m1_user", "ml1m_user_id", "user_id", "ml1m_user_id"),
            read_users_1m(require_file(movielens, "users.dat")).rename_columns({"user_id": "ml1m_user_id"}),
            "ml1m_user_id",
        )
        for name, table in (("items", items), ("users", users)):
            parquet.write_table(table, output / f"{name}.parquet")
            counts[name] = table.num_rows
    return counts


def _read_mapping(path: Path, key: str, value: str, key_name: str, value_name: str) -> pa.Table:
    """Reads a csv file with two columns of ids, as text."""
    lines = split_lines(path, ",", 2, header=f"{key},{value}")
    rows = [{key_name: own, value_name: published} for _, (own, published) in lines]
    return pa.Table.from_pylist(rows, pa.schema([(key_name, pa.string()), (value_name, pa.string())]))


def _join_columns(mapping: pa.Table, table: pa.Table, key: str) -> pa.Table:
    """Adds the columns of `table` to `mapping`, in the order of `mapping`."""
    rows = pc.index_in(mapping[key], table[key])
    for name in table.column_names:
        if name != key:
            mapping = mapping.append_column(name, table[name].take(rows))
    return mapping


def convert_ordered_lists(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Converts one text file of lists, or of pairs `user item`, whose order is that of the events.

    `position` is the place of an item among those of its user.

    Raises:
        DataError: for a directory, a line without an item, or a file without lines.
    """
    if not source.is_file():
        raise DataError(f"--source: invalid file '{source}' (expected one file of lines 'user item item ...')")
    places: Counter[str] = Counter()
    schema = _SCHEMA.set(2, pa.field("position", pa.int64()))
    with parquet.ParquetWriter(output / "events.parquet", schema) as writer:
        events = _write_rows(writer, source, _place_items(source, places), progress)
    return {"events": events, "users": len(places)}


def _place_items(path: Path, places: Counter[str]) -> Iterator[_Columns]:
    """Yields users, items and places of each line; `places` counts the items of each user."""
    separator: str | None = None
    for number, text in read_lines(path, "utf-8"):
        line = text.removeprefix("\ufeff") if number == 1 else text
        if not places:
            separator = next((mark for mark in _SEPARATORS if mark in line), None)
        user, *listed = (part for part in map(str.strip, line.split(separator)) if part)
        if not listed:
            raise DataError(f"{path}:{number}: invalid line {line[:200]!r} (expected 'user item item ...')")
        first = places[user]
        places[user] += len(listed)
        yield [user] * len(listed), listed, range(first, places[user])


def _write_events(files: dict[str, Path], output: Path, progress: Progress) -> dict[str, Any]:
    """Writes events.parquet from one list file per split."""
    counts: dict[str, int] = {}
    with parquet.ParquetWriter(output / "events.parquet", _SCHEMA) as writer:
        for split in SPLITS:
            if split in files:
                rows = _list_pairs(files[split], split)
                counts[split] = _write_rows(writer, files[split], rows, progress, sum(counts.values()))
    return {"events": sum(counts.values()), "splits": counts}


def _list_pairs(path: Path, split: str) -> Iterator[_Columns]:
    """Yields users, items and splits of each line."""
    for number, line in read_lines(path, "utf-8"):
        user, *listed = line.split()
        if not "".join((user, *listed)).isdecimal():
            odd = next(text for text in (user, *listed) if not text.isdecimal())
            raise DataError(f"{path}:{number}: invalid id {odd!r} (expected 'user item item ...' in whole numbers)")
        yield [user] * len(listed), listed, [split] * len(listed)


def _write_rows(
    writer: parquet.ParquetWriter, path: Path, lines: Iterator[_Columns], progress: Progress, before: int = 0
) -> int:
    """Writes the lines of a file in bounded memory; returns the number of rows. `before` were written already."""
    written = 0
    for columns in _join_lines(lines):
        writer.write_table(pa.table([pa.array(column) for column in columns], schema=writer.schema))
        written += len(columns[0])
        progress("lists", before + written, 0)
    if not written:
        raise DataError(f"{path}: no 'user item item ...' line with an item")
    return written


def _join_lines(lines: Iterator[_Columns]) -> Iterator[_Columns]:
    """Joins the columns of consecutive lines, at least `_BATCH` rows of them, and of the rest."""
    joined: tuple[list[Any], ...] = ([], [], [])
    for line in lines:
        for column, values in zip(joined, line, strict=True):
            column.extend(values)
        if len(joined[0]) >= _BATCH:
            yield joined
            joined = ([], [], [])
    if joined[0]:
        yield joined
