"""Locates records of text files by line, and repairs delimited files with broken quotes.

DuckDB counts records, not lines; a record whose quoted field spans lines shifts every later number. The physical line
is found by reading the file again up to the record, which only files with bad rows need.

A quote that is opened and never closed would swallow everything up to the next quote, or to the end of the file. The
repair takes such a record as its first line alone, and continues with the next line. A quoted field that spans lines
and is closed correctly stays one record. Lines with mixed line ends are separated as well.
"""

from __future__ import annotations

import io
import itertools
import re
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt

from twotower_tf.sql import Connection
from twotower_tf.tables import delimited_header, input_files, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.record_runs import PLAIN, Run, RunReader
from twotower_tf.tables.text_marks import CLOSED, OPEN, QUOTE, RETURN, Marks, scan_line, skip_mark

Numbers: TypeAlias = npt.NDArray[np.int64]

_LINE_END = ord("\n")


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
    "THEN 'NaN or Infinity, which JSON does not have' "
    r"WHEN regexp_matches(line, '^\s*\{\s*u?''') THEN 'not a JSON object: single quotes, as Python writes them; "
    "json.dumps(ast.literal_eval(line)) writes JSON' ELSE 'not a JSON object' END"
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
    places = _Places(
        first=2 if delimited and not source.columns else 1,
        # in a single column an empty line is a row without a value, as in DuckDB
        blanks=b"" if header is not None and len(header.names) == 1 else b"\r\n" if delimited else b" \t\r\n",
        good=np.array(sorted(wanted), np.int64),
        bad=np.array(sorted({record.record for record in malformed}), np.int64),
    )
    marks = Marks.of(source.options, header.delimiter) if header else Marks(b"", b"", b"")
    with input_files.reading(source), text_encoding.open_text(source) as file:
        for run in RunReader(file, marks):
            places.add(run)
            if places.complete:
                break
    return places.found_good, places.found_bad


class _Places:
    """Places of records that are wanted, by their number or by their position among the good ones."""

    def __init__(self, first: int, blanks: bytes, good: Numbers, bad: Numbers) -> None:
        """Begins before the first record.

        Args:
            first: number of the first record that can be good.
            blanks: bytes that a record without a value consists of; b"" where such a record is good.
            good: wanted positions among the good records, from 0, ascending.
            bad: wanted numbers of bad records, from 1, ascending.
        """
        self._first, self._blanks, self._good, self._bad = first, blanks, good, bad
        self._every_good, self._every_bad = set(good.tolist()), set(bad.tolist())
        self._begins_blank = np.isin(np.arange(256), list(blanks))  # by a record's first byte
        self._records, self._lines, self._rows = 0, 0, 0  # before the next run
        self.found_good: dict[int, RecordPlace] = {}
        self.found_bad: dict[int, RecordPlace] = {}

    @property
    def complete(self) -> bool:
        return len(self.found_good) == len(self._good) and len(self.found_bad) == len(self._bad)

    def add(self, run: Run) -> None:
        """Adds the records of the next run."""
        if run.state != PLAIN:
            self._add_record(run.text)
            return
        ends = np.flatnonzero(np.frombuffer(run.text, np.uint8) == _LINE_END) + 1
        if not run.text.endswith(b"\n"):
            ends = np.append(ends, len(run.text))
        starts = np.concatenate([[0], ends[:-1]])
        numbers = np.arange(self._records + 1, self._records + len(ends) + 1)
        bad = _take_range(self._bad, numbers[0], numbers[-1])
        is_row = numbers >= self._first
        is_row[bad - numbers[0]] = False
        if self._blanks:
            is_row[self._find_blank(run.text, starts, ends)] = False
        rows = np.flatnonzero(is_row)
        good = _take_range(self._good, self._rows, self._rows + len(rows) - 1)
        for found, keys, records in (
            (self.found_bad, bad, bad - numbers[0]),
            (self.found_good, good, rows[good - self._rows]),
        ):
            for key, record in zip(keys.tolist(), records.tolist(), strict=True):
                found[key] = _decode_place(self._lines + record + 1, run.text[starts[record] : ends[record]])
        self._records, self._lines, self._rows = int(numbers[-1]), self._lines + len(ends), self._rows + len(rows)

    def _add_record(self, text: bytes) -> None:
        """Adds one record, which may span lines; NumPy would take ten times as long for it."""
        self._records += 1
        place = _decode_place(self._lines + 1, text)
        if self._records in self._every_bad:
            self.found_bad[self._records] = place
        elif self._records >= self._first and (not self._blanks or text.strip(self._blanks)):
            if self._rows in self._every_good:
                self.found_good[self._rows] = place
            self._rows += 1
        self._lines += text.count(b"\n") + (not text.endswith(b"\n"))

    def _find_blank(self, text: bytes, starts: Numbers, ends: Numbers) -> Numbers:
        """Finds the records that have no value."""
        records = np.flatnonzero(self._begins_blank[np.frombuffer(text, np.uint8)[starts]])
        blank = [not text[starts[record] : ends[record]].strip(self._blanks) for record in records]
        found: Numbers = records[np.array(blank, bool)]
        return found


def _take_range(values: Numbers, first: int, last: int) -> Numbers:
    """Takes the ascending values from `first` to `last`, inclusive."""
    return values[np.searchsorted(values, first) : np.searchsorted(values, last, side="right")]


def _decode_place(line: int, text: bytes) -> RecordPlace:
    return RecordPlace(line, text.decode("utf-8", errors="replace").rstrip("\r\n"))


# --- repair -------------------------------------------------------------------------------------------------------

LONGEST = 2_000_000  # bytes of a record; DuckDB's own limit
_SMALL = 1 << 20  # bytes of a file that may as well be scanned twice
_LOOKED_AT, _QUOTED = 1 << 22, 1000  # bytes, and records with quotes, by which a file is repaired before it is scanned
_RETURNS = re.compile(rb"\r+\n")
_LINE_FAULTS = {
    OPEN: BROKEN_QUOTE,
    QUOTE: BROKEN_QUOTE,
    RETURN: "a carriage return inside the line",
}


def begins_broken(source: InputFile) -> bool:
    """Tests whether a delimited file of several columns has a quote that stays open among its first records.

    Such a file is then repaired before it is scanned in vain. Where the quote comes later, or the file is small, the
    scan finds it.
    """
    if source.path.stat().st_size < _SMALL:
        return False
    header = delimited_header.read_header(source)
    if header is None or len(header.names) < 2 or not source.options.quote:
        return False
    with input_files.reading(source), input_files.open_bytes(source.path) as file:
        if not source.columns:
            file.readline()
        lines = file.read(_LOOKED_AT)
    marks = Marks.of(source.options, header.delimiter)
    runs = RunReader(io.BytesIO(lines[: lines.rfind(b"\n") + 1]), marks, LONGEST)
    quoted = itertools.islice((run for run in runs if run.state != PLAIN), _QUOTED)
    # one that is open to the end may be closed later
    return any(run.state == QUOTE and scan_line(run.text, marks, skip_mark(run.text))[0] == OPEN for run in quoted)


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
    number = 0
    if not source.columns:  # the header is one line, as for `read_header`
        out.write(file.readline().rstrip(b"\r\n") + b"\n")
        number = 1
    for run in RunReader(file, marks, LONGEST):
        if run.state == PLAIN:
            text = _RETURNS.sub(b"\n", run.text) if b"\r" in run.text else run.text
            text = text if text.endswith(b"\n") else text.rstrip(b"\r") + b"\n"
            number += text.count(b"\n")
        else:
            text = run.text.rstrip(b"\r\n") + b"\n" if run.state == CLOSED else b"\n"
            number += 1
        if run.state in _LINE_FAULTS:
            line = run.text.decode("utf-8", "replace").rstrip("\r\n")
            found.append(MalformedRecord(source, number, _LINE_FAULTS[run.state], line))
        out.write(text)
    return found
