"""Cuts the input files into units of work: ranges of rows, known before work starts.

Each unit becomes one output file, so a unit's bounds depend on the files alone and never on workers or memory. Parquet
is cut between row groups, and inside those that hold several units, which writers make of a whole table; delimited text
and JSON lines after a line that ends a record; TFRecords after a record. A compressed file is one unit: only its
beginning can be found.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from twotower_tf.errors import DataError
from twotower_tf.tables import input_files, json_layout, text_encoding
from twotower_tf.tables.csv_records import LONGEST
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.readers.parquet import open_parquet

ROWS = 1 << 18  # of a unit of a large Parquet file
BYTES = 32 << 20  # of a unit of a large text
_PARTS = 8  # of a smaller file, so that it keeps several workers busy,
_SMALLEST = 8  # but a unit has at least this part of ROWS or BYTES
_NEWLINE = ord("\n")
_FRAME = 16  # bytes of a TFRecord besides its payload


@dataclass(frozen=True)
class Unit:
    """A range of an input file.

    Attributes:
        number: place among all units.
        file: position of the file among the sources.
        start: first row group (Parquet), or byte.
        stop: the end of the range of row groups or bytes.
        first: rows, lines or records of the file before it. A Parquet unit may begin inside a row group.
        rows: rows, lines or records in it; 0 if unknown.
        whole: whether it is the file from its first byte to its last, header included.
    """

    number: int
    file: int
    start: int
    stop: int
    first: int
    rows: int
    whole: bool = False


Range = tuple[int, int, int, int]  # start, stop, first, rows


def split_units(sources: Sequence[InputFile]) -> list[Unit]:
    """Cuts the files into units, in their order.

    Raises:
        DataError: for a file that cannot be read.
    """
    units: list[Unit] = []
    for position, source in enumerate(sources):
        try:
            ranges = list(_ranges(source))
        except OSError as error:
            raise DataError(f"{source.name}: cannot be read: {error.strerror or error}") from None
        whole = len(ranges) == 1 and source.suffix not in input_files.PARQUET
        units += [Unit(len(units) + number, position, *each, whole) for number, each in enumerate(ranges)]
    return units


def _ranges(source: InputFile) -> Iterator[Range]:
    size = source.path.stat().st_size
    if source.suffix in input_files.PARQUET:
        return _row_groups(source)
    if source.compressed or _is_whole(source):
        return iter([(0, size, 0, 0)])
    if source.suffix in input_files.TFRECORDS:
        return _records(source.path, size)
    return _lines(source, size)


def _is_whole(source: InputFile) -> bool:
    """Tests whether a text file cannot be cut: it has to be decoded, has escaped quotes, or is one JSON array."""
    text = source.options.text
    escaped = source.suffix in input_files.DELIMITERS and (text.escape not in ("", text.quote))
    return escaped or json_layout.is_whole(source) or text_encoding.find_conversion(source) is not None


def _choose_size(total: int, most: int) -> int:
    """Returns the size of a file's units."""
    return max(most // _SMALLEST, min(most, total // _PARTS))


def _row_groups(source: InputFile) -> Iterator[Range]:
    with open_parquet(source) as file:
        metadata = file.metadata
    size = _choose_size(metadata.num_rows, ROWS)
    start = first = rows = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        parts = max(1, round(count / size))
        if rows and (parts > 1 or rows >= size):
            yield start, group, first, rows
            start, first, rows = group, first + rows, 0
        if parts > 1:
            ends = [count * part // parts for part in range(parts + 1)]
            for begin, end in itertools.pairwise(ends):
                yield group, group + 1, first + begin, end - begin
            start, first = group + 1, first + count
        else:
            rows += count
    if rows:
        yield start, metadata.num_row_groups, first, rows


def _lines(source: InputFile, size: int) -> Iterator[Range]:
    """Cuts where a line ends and no quoted field is open.

    An even number of quotes since the unit's start says that none is. A stray quote makes the numbers odd for good:
    after a record's longest length the next line end is taken.
    """
    delimited = source.suffix in input_files.DELIMITERS
    quote = ord(source.options.quote or "\n") if delimited else _NEWLINE
    with source.path.open("rb") as file:
        start, first = 0, 0
        if delimited and not source.columns:
            start, first = len(file.readline()), 1
        length = _choose_size(size, BYTES)
        if size <= length or start == size:
            text = file.read()
            lines = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
            if lines:
                yield 0, size, first, lines
            return
        while start < size:
            stop, lines = _next_cut(file, start, length, quote)
            yield start, stop, first, lines
            start, first = stop, first + lines


def _next_cut(file: IO[bytes], start: int, length: int, quote: int) -> tuple[int, int]:
    """Returns the end of a unit of about `length` bytes that begins at byte `start`, and its lines.

    `quote` is the byte around fields, that of a line end in text without quoting.
    """
    quoted = quote != _NEWLINE
    file.seek(start)
    body = np.frombuffer(file.read(length), np.uint8)
    stop, lines = start + len(body), int(np.count_nonzero(body == _NEWLINE))
    odd = int(np.count_nonzero(body == quote)) & 1 if quoted else 0
    last = body[-1:]
    while len(window := np.frombuffer(file.read(LONGEST), np.uint8)):
        ends = np.flatnonzero(window == _NEWLINE)
        if len(ends):
            open_quotes = (odd + np.cumsum(window == quote)[ends]) & 1 if quoted else np.zeros(len(ends), np.int64)
            closed = np.flatnonzero(open_quotes == 0)
            chosen = int(closed[0]) if len(closed) else 0
            return stop + int(ends[chosen]) + 1, lines + chosen + 1
        odd ^= int(np.count_nonzero(window == quote)) & 1 if quoted else 0
        stop, last = stop + len(window), window[-1:]
    return stop, lines + int(bool(len(last)) and int(last[0]) != _NEWLINE)


def _records(path: Path, size: int) -> Iterator[Range]:
    """Walks the lengths of a TFRecord file; where one is damaged the rest is one unit, whose reader reports it."""
    with path.open("rb") as file:
        start = position = first = rows = 0
        most = _choose_size(size, BYTES)
        while position < size:
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            position += length + _FRAME
            rows += 1
            if position >= size:
                break
            if position - start >= most:
                yield start, position, first, rows
                start, first, rows = position, first + rows, 0
            file.seek(position)
        if start < size:
            yield start, size, first, rows
