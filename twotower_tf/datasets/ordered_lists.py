"""Converts one text file of lists `user item item ...`, or of pairs `user item`, whose order is that of the events.

Source: Kang and McAuley, SASRec, ICDM 2018 (pairs, in time order); the lists are what many later papers publish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from twotower_tf.datasets.raw_lines import read_lines
from twotower_tf.errors import DataError
from twotower_tf.progress import Progress

_BATCH = 500_000
_SCHEMA = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("position", pa.int64())])
_SEPARATORS = ("\t", ",", ";")  # else blanks


def convert_ordered_lists(source: Path, output: Path, progress: Progress) -> dict[str, Any]:
    """Writes events.parquet with the place of each item among those of its user, in bounded memory.

    Raises:
        DataError: for a directory, a line without an item, or a file without lines.
    """
    if not source.is_file():
        raise DataError(f"--source: invalid file '{source}' (expected one file of lines 'user item item ...')")
    places: Counter[str] = Counter()
    events = 0
    with parquet.ParquetWriter(output / "events.parquet", _SCHEMA) as writer:
        for users, items, positions in _batches(source, places):
            columns = [pa.array(users, pa.string()), pa.array(items, pa.string()), pa.array(positions, pa.int64())]
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            events += len(users)
            progress("lists", events, 0)
    if not events:
        raise DataError(f"{source}: no 'user item item ...' line with an item")
    return {"events": events, "users": len(places)}


def _batches(path: Path, places: Counter[str]) -> Iterator[tuple[list[str], list[str], list[int]]]:
    """Yields users, items and positions of consecutive lines; `places` counts the items of each user."""
    users: list[str] = []
    items: list[str] = []
    positions: list[int] = []
    separator: str | None = None
    for number, text in read_lines(path, "utf-8"):
        line = text.removeprefix("\ufeff") if number == 1 else text
        if not places:
            separator = next((mark for mark in _SEPARATORS if mark in line), None)
        user, *listed = (part for part in map(str.strip, line.split(separator)) if part)
        if not listed:
            raise DataError(f"{path}:{number}: invalid line {line[:200]!r} (expected 'user item item ...')")
        users.extend([user] * len(listed))
        items.extend(listed)
        positions.extend(range(places[user], places[user] + len(listed)))
        places[user] += len(listed)
        if len(users) >= _BATCH:
            yield users, items, positions
            users, items, positions = [], [], []
    if users:
        yield users, items, positions
