"""Samples rows from the beginning, middle and end of a file into a small file of the same format.

Rows keep their numbers: `InputFile.numbers` maps the small file's lines (rows) to those of the file itself. Of
TFRecords, which can only be read from the start, the first records are taken.
"""

from __future__ import annotations

import itertools
import struct
import uuid
from collections import deque
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.errors import DataError
from twotower_tf.tables import delimited_header, input_files, json_layout, text_encoding, tfrecords
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.readers import parquet
from twotower_tf.tables.text_marks import Marks, count_fields

WHOLE_BYTES = 1 << 25  # of a table's files: smaller tables are validated as a whole
_HEAD, _BLOCK, _TAIL = 2_000, 500, 1_000
_MIDDLES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)


def sample_file(source: InputFile, directory: Path) -> InputFile:
    """Writes a file's sample into `directory`.

    Returns:
        the small file, under the name of the file itself.

    Raises:
        DataError: for a file that cannot be read to its end.
    """
    path = directory / f"{uuid.uuid4().hex}{source.suffix}"
    small = replace(source, path=path)
    with input_files.reading(source):
        if source.suffix in input_files.PARQUET:
            return _sample_parquet(source, small)
        if source.suffix in input_files.TFRECORDS:
            return _sample_tfrecords(source, small)
        return source if json_layout.is_whole(source) else _sample_lines(source, small)


def check_file(source: InputFile, directory: Path) -> InputFile:
    """Checks that a file can be read to its end, and returns it; of Parquet, the rows are left to its reader.

    Raises:
        DataError: for a file that cannot be read to its end.
    """
    if source.suffix in input_files.PARQUET:
        parquet.open_parquet(source).close()
    else:
        sample_file(source, directory)
    return source


def _sample_lines(source: InputFile, small: InputFile) -> InputFile:
    header = delimited_header.read_header(source) if source.suffix in input_files.DELIMITERS else None
    marks = Marks.of(source.options, header.delimiter) if header else None
    chosen: list[tuple[int, bytes]] = []
    tail: deque[tuple[int, bytes]] = deque(maxlen=_TAIL)
    middles = iter(_MIDDLES)
    begin, left, total = next(middles), 0, 0
    with text_encoding.open_text(source) as file:
        for total, line in enumerate(file, 1):
            if total == begin:
                begin, left = next(middles, 0), _BLOCK
            if total <= _HEAD or left:
                left = max(0, left - 1)
                chosen.append((total, line))
            else:
                tail.append((total, line))
    kept = []
    places = enumerate(sorted([*chosen, *tail]))
    for _, run in itertools.groupby(places, key=lambda each: each[1][0] - each[0]):  # lines that follow each other
        block = [numbered for _, numbered in run]
        if marks is not None and header is not None:
            fields = len(header.names)
            block = _trim_block(block, marks, fields, begins=block[0][0] == 1, ends=block[-1][0] == total)
        kept += block
    small.path.write_bytes(b"".join(line if line.endswith(b"\n") else line + b"\n" for _, line in kept))
    options = text_encoding.utf8_options(source)
    return replace(small, numbers=tuple(place for place, _ in kept), options=options)


def _trim_block(
    block: list[tuple[int, bytes]], marks: Marks, fields: int, *, begins: bool, ends: bool
) -> list[tuple[int, bytes]]:
    """Trims a block to the lines from the first to the last that is a whole record by itself.

    A quoted field may span lines: the line before the block may have opened one, and its last line another. Where the
    block `begins` or `ends` the file, that end is kept.
    """
    sure = [at for at, (_, line) in enumerate(block) if count_fields(line, marks) == fields]
    if not sure:
        return block if begins else []
    return block[0 if begins else sure[0] : len(block) if ends else sure[-1] + 1]


def _sample_parquet(source: InputFile, small: InputFile) -> InputFile:
    with parquet.open_parquet(source) as file:
        groups = file.metadata.num_row_groups
        starts = [0, *itertools.accumulate(file.metadata.row_group(group).num_rows for group in range(groups))]
        tables = [file.schema_arrow.empty_table()]
        numbers: list[int] = []
        try:
            for group in sorted({0, groups // 2, groups - 1} & set(range(groups))):
                for first, table in _take_ends(file.read_row_group(group)):
                    tables.append(table)
                    numbers += range(starts[group] + first + 1, starts[group] + first + 1 + table.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{source.name}: cannot be read: {' '.join(str(error).split())[:200]}") from None
        pq.write_table(pa.concat_tables(tables), small.path)
    return replace(small, numbers=tuple(numbers))


def _take_ends(table: pa.Table) -> list[tuple[int, pa.Table]]:
    """Returns the first and last rows of a row group, each with the place of its first row."""
    if table.num_rows <= _HEAD + _TAIL:
        return [(0, table)]
    last = table.num_rows - _TAIL
    return [(0, table.slice(0, _HEAD)), (last, table.slice(last))]


def _sample_tfrecords(source: InputFile, small: InputFile) -> InputFile:
    with input_files.open_bytes(source.path) as file, small.path.open("wb") as out:
        for length, length_sum, payload, payload_sum in tfrecords.read_records(file, source, 0):
            out.write(length + struct.pack("<I", length_sum) + payload + struct.pack("<I", payload_sum))
    return small
