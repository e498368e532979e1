"""Locates records of text files by line, and repairs delimited files with broken quotes.

DuckDB counts records, not lines; a record whose quoted field spans lines shifts every later number. The physical line
is found by reading the file again up to the record, which only files with bad rows need.

A quote that is opened and never closed would swallow everything up to the next quote, or to the end of the file. The
repair takes such a record as its first line alone, and continues with the next line. A quoted field that spans lines
and is closed correctly stays one record. Lines with mixed line ends are separated as well.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from twotower_tf.sql import Connection
from twotower_tf.tables import delimited_header, input_files, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.text_marks import CLOSED, OPEN, QUOTE, RETURN, Marks, scan_line, skip_mark


@dataclass(frozen=True)
class MalformedRecord:
    """A record that the reader could not parse.

    Attributes:
        source: its file.
        record: its number in the file, from 1, header and blank lines included (DuckDB's count).
        reason: of the failure.
        text: of the record, where the file is not read again for it.
        lines: whether it seems to span lines.
    """

    source: InputFile
    record: int
    reason: str
    text: str = ""
    lines: bool = False


BROKEN_QUOTE = "a quote that is not closed or stands inside a field"
NOT_UTF8 = "not UTF-8"
_REASONS = {
    "INVALID ENCODING": NOT_UTF8,
    "UNQUOTED VALUE": BROKEN_QUOTE,
    "LINE SIZE OVER MAXIMUM": "longer than a record may be",
}


def take_rejected(connection: Connection, sources: Sequence[InputFile]) -> list[MalformedRecord]:
    """Removes and returns the records that the latest scans of delimited text rejected, in input order."""
    positions = {str(source.path): position for position, source in enumerate(sources)}
    # one record has one error per field that is missing: the first says how many there are; a quote that stays open
    # may take several records, which have one line, and is their cause
    rows = connection.execute(
        """
        WITH scans AS (SELECT DISTINCT scan_id, file_id, file_path FROM reject_scans),
        errors AS (SELECT *, coalesce(column_idx, 0) AS field FROM reject_errors)
        SELECT file_path, line,
               coalesce(min(error_type) FILTER (error_type = 'UNQUOTED VALUE'), arg_min(error_type, field)),
               arg_min(error_message, field),
               arg_max(error_message, field), min(csv_line)
        FROM errors JOIN scans USING (scan_id, file_id) GROUP BY file_path, line
        """
    ).fetchall()
    connection.execute("DELETE FROM reject_errors")
    connection.execute("DELETE FROM reject_scans")
    found = []
    ordered = sorted((positions[path], int(line), *rest) for path, line, *rest in rows if path in positions)
    for position, line, error, first, last, content in ordered:
        source, text = sources[position], (content or "").strip("\r\n")
        reason = _REASONS.get(error) or _describe_count(source, last if error == "TOO MANY COLUMNS" else first)
        spans = error in _REASONS and ("\n" in text or "\r" in text)
        found.append(MalformedRecord(source, line, reason, text, spans))
    return found


def may_hold_others(record: MalformedRecord, marks: Marks) -> bool:
    """Tests whether a rejected record may contain good ones: it spans lines, or its text has no broken quote.

    Where a quote stays open after a line end of another kind, DuckDB states the text of a good record before it.
    """
    if record.lines or record.reason != BROKEN_QUOTE:
        return record.lines
    return scan_line(record.text.encode(), marks)[0] == CLOSED


def _describe_count(source: InputFile, message: str) -> str:
    """Rewords DuckDB's `Expected Number of Columns: 4 Found: 3` like the other reasons."""
    expected, _, found = message.removeprefix("Expected Number of Columns: ").partition(" Found: ")
    owner = "the configuration names" if source.columns else "the header has"
    return f"{found.strip()} fields, {owner} {expected.strip()}" if found else message.splitlines()[0]


# DuckDB accepts NaN and Infinity as numbers
_NOT_OBJECT_REASON = (
    "CASE WHEN CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' END "
    "THEN 'NaN or Infinity, which JSON does not have' ELSE 'not a JSON object' END"
)


def find_non_json(connection: Connection, staged: str, sources: Sequence[InputFile]) -> list[MalformedRecord]:
    """Returns the lines of `staged` that are neither blank nor a JSON object."""
    rows = connection.execute(
        f"SELECT source, number, {_NOT_OBJECT_REASON}, line FROM (SELECT source, line, good, "
        "row_number() OVER (PARTITION BY source ORDER BY "
        f"rowid) AS number FROM {staged}) WHERE NOT good AND trim(coalesce(line, ''), ' \t\r') <> '' "
        "ORDER BY source, number"
    ).fetchall()
    return [MalformedRecord(sources[source], int(number), reason, line) for source, number, reason, line in rows]


def read_records(source: InputFile) -> Iterator[tuple[int, int, bytes]]:
    """Yields every record of a text file, header and blank lines included: number, first physical line, bytes.

    JSON lines are one record each. In delimited text a quoted field may span lines: a quote opens a field only at its
    start, or after one blank; inside, an escaped (or doubled) quote is text. After a closed quote anything but blanks,
    a delimiter or a line end breaks the record, which then ends with the line.

    Raises:
        DataError: where the file cannot be read to its end.
    """
    header = delimited_header.read_header(source) if source.suffix in input_files.DELIMITERS else None
    marks = Marks.of(source.options, header.delimiter) if header else Marks(b"", b"", b"")
    number, line = 0, 0
    with input_files.reading(source), text_encoding.open_text(source) as file:
        for text in file:
            line += 1
            first = line
            if marks.quote and marks.quote in text:
                ends, _ = scan_line(text, marks, skip_mark(text))
                while ends == OPEN and (more := file.readline()):
                    text += more
                    line += 1
                    ends, _ = scan_line(more, marks, inside=True)
            number += 1
            yield number, first, text


@dataclass(frozen=True)
class RecordPlace:
    """The line and text of a record."""

    line: int
    text: str


def locate_records(
    source: InputFile, wanted: Collection[int], malformed: Collection[MalformedRecord]
) -> tuple[dict[int, RecordPlace], dict[int, RecordPlace]]:
    """Locates records by reading a text file up to the last bad one.

    Returns:
        The places of `wanted` by position among the good records, from 0, and of `malformed` ones by record number.
    """
    delimited = source.suffix in input_files.DELIMITERS
    header = delimited_header.read_header(source) if delimited else None
    first = 2 if delimited and not source.columns else 1
    blank_is_row = header is not None and len(header.names) == 1  # as in DuckDB: a row without a value
    rejected_numbers = {record.record for record in malformed}
    good: dict[int, RecordPlace] = {}
    bad: dict[int, RecordPlace] = {}
    last_good = max(wanted, default=-1)
    last_bad = max(rejected_numbers, default=0)
    wanted = set(wanted)
    position = -1
    for number, line, text in read_records(source):
        if number in rejected_numbers:
            bad[number] = _decode_place(line, text)
        elif number >= first and (blank_is_row or text.strip(b"\r\n" if delimited else b" \t\r\n")):
            position += 1
            if position in wanted:
                good[position] = _decode_place(line, text)
        if position >= last_good and number >= last_bad:
            break
    return good, bad


def _decode_place(line: int, text: bytes) -> RecordPlace:
    return RecordPlace(line, text.decode("utf-8", errors="replace").rstrip("\r\n"))


# --- repair -------------------------------------------------------------------------------------------------------

LONGEST = 2_000_000  # bytes of a record; DuckDB's own limit
_LINE_FAULTS = {
    OPEN: BROKEN_QUOTE,
    QUOTE: BROKEN_QUOTE,
    RETURN: "a carriage return inside the line",
}


def repair_file(source: InputFile, directory: Path) -> tuple[InputFile, list[MalformedRecord]]:
    """Copies a delimited file of several columns into `directory`, with broken records as empty lines.

    Returns:
        The copy, which keeps the file's name, and the broken records.
    """
    header = delimited_header.read_header(source)
    assert header is not None
    marks = Marks.of(source.options, header.delimiter)
    directory.mkdir(parents=True, exist_ok=True)
    source = delimited_header.pin_delimiter(source)
    path = directory / f"{uuid.uuid4().hex}{source.suffix}"
    copy = replace(source, path=path, original=source.original or source.path, repaired=True)
    with input_files.open_bytes(source.path) as file, copy.path.open("wb") as out:
        return copy, _copy_records(source, file, out, marks)


def _copy_records(source: InputFile, file: IO[bytes], out: IO[bytes], marks: Marks) -> list[MalformedRecord]:
    found: list[MalformedRecord] = []
    again: deque[bytes] = deque()  # lines of a broken record, to be read again

    def line() -> bytes:
        return again.popleft() if again else file.readline()

    number = 0
    while text := line():
        number += 1
        record, ends = _read_record(text, line, marks)
        if number == 1 and not source.columns:  # the header is one line, as for `read_header`
            again.extendleft(reversed(record[1:]))
            out.write(text.rstrip(b"\r\n") + b"\n")
            continue
        if ends == CLOSED:
            out.write(b"".join(record).rstrip(b"\r\n") + b"\n")
            continue
        again.extendleft(reversed(record[1:]))
        out.write(b"\n")
        found.append(
            MalformedRecord(source, number, _LINE_FAULTS[ends], text.decode("utf-8", "replace").rstrip("\r\n"))
        )
    return found


def _read_record(text: bytes, line: Callable[[], bytes], marks: Marks) -> tuple[list[bytes], str]:
    """Reads the lines of the record that `text` begins; returns them and the state at their end."""
    record, size = [text], len(text)
    ends, _ = scan_line(text, marks, skip_mark(text))
    while ends == OPEN and size <= LONGEST:
        more = line()
        if not more:
            break
        record.append(more)
        size += len(more)
        ends, _ = scan_line(more, marks, inside=True)
    return record, ends
