"""Delimited files with a broken quote, copied without their broken records so that the rest can be read.

A quote that is opened and never closed would take everything up to the next quote, or to the end of the file, with it.
Here such a record is its first line alone, and reading goes on with the next one. A quoted field that spans lines and
closes as it should stays one record. Lines that end in another way than their neighbours are told apart as well.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from twotower_tf.tables import csv_records, input_files
from twotower_tf.tables.csv_records import Malformed
from twotower_tf.tables.input_files import Source

LONGEST = 2_000_000  # bytes of a record; DuckDB's own limit
_CLOSED, _OPEN, _QUOTE, _RETURN = "closed", "open", "quote", "return"
_REASONS = {
    _OPEN: csv_records.BROKEN_QUOTE,
    _QUOTE: csv_records.BROKEN_QUOTE,
    _RETURN: "a carriage return inside the line",
}


def repaired(source: Source, directory: Path) -> tuple[Source, list[Malformed]]:
    """Copies a delimited file into `directory`, line for line, with broken records as empty lines.

    Args:
        source: the file; it has a header or given columns, more than one.
        directory: made where it is missing.

    Returns:
        The copy, which keeps the file's name, and the broken records.
    """
    header = input_files.head(source)
    assert header is not None
    delimiter = header[1].encode()
    directory.mkdir(parents=True, exist_ok=True)
    copy = replace(source, path=directory / f"{uuid.uuid4().hex}{source.suffix}", original=source.path)
    with input_files.open_bytes(source.path) as file, copy.path.open("wb") as out:
        return copy, _copy(source, file, out, delimiter)


def _copy(source: Source, file: IO[bytes], out: IO[bytes], delimiter: bytes) -> list[Malformed]:
    found: list[Malformed] = []
    again: deque[bytes] = deque()  # lines that a broken record seemed to hold

    def line() -> bytes:
        return again.popleft() if again else file.readline()

    number = 0
    while text := line():
        number += 1
        record, ends = _record(text, line, delimiter)
        if number == 1 and not source.columns:  # the header is one line: `files.head` has read it
            again.extendleft(reversed(record[1:]))
            out.write(text.rstrip(b"\r\n") + b"\n")
            continue
        if ends == _CLOSED:
            out.write(b"".join(record).rstrip(b"\r\n") + b"\n")
            continue
        again.extendleft(reversed(record[1:]))
        out.write(b"\n")
        found.append(Malformed(source, number, _REASONS[ends], text.decode("utf-8", "replace").rstrip("\r\n")))
    return found


def _record(text: bytes, line: Callable[[], bytes], delimiter: bytes) -> tuple[list[bytes], str]:
    """The lines of the record that `text` begins, and how the last of them ends."""
    record, size = [text], len(text)
    ends = _ends(text, delimiter, 3 if text.startswith(b"\xef\xbb\xbf") else 0, False)
    while ends == _OPEN and size <= LONGEST:
        more = line()
        if not more:
            break
        record.append(more)
        size += len(more)
        ends = _ends(more, delimiter, 0, True)
    return record, ends


def _ends(text: bytes, delimiter: bytes, position: int, inside: bool) -> str:
    """How a line ends that begins `inside` a quoted field or not: closed, open, or broken and by what."""
    end = len(text.rstrip(b"\r\n"))
    while True:
        if not inside and text[position : position + 1] == b'"':
            inside = True
            position += 1
        if inside:
            close = text.find(b'"', position)
            if close < 0:
                return _OPEN
            if text[close + 1 : close + 2] == b'"':
                position = close + 2
                continue
            inside, position = False, close + 1
            if position >= end:
                return _CLOSED
            if not text.startswith(delimiter, position):
                return _QUOTE
            position += len(delimiter)
            continue
        found = text.find(delimiter, position, end)
        if b"\r" in text[position : end if found < 0 else found]:
            return _RETURN
        if found < 0:
            return _CLOSED
        position = found + len(delimiter)
