"""Where in its file a record stands: malformed records as the reader reports them, and rows found bad later.

DuckDB counts records, not lines; a record whose quoted field spans lines shifts every later number. The physical line
is found by reading the file up to the record once more, which only files with bad rows pay for.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import duckdb

from twotower_tf.errors import DataError
from twotower_tf.tables import input_files
from twotower_tf.tables.input_files import Source


@dataclass(frozen=True)
class Malformed:
    """A record that the reader could not take apart.

    Attributes:
        source: its file.
        record: its number in the file, from 1, header and blank lines included (DuckDB's count).
        reason: what is wrong with it.
        text: its text where the file is not read again for it.
        lines: whether it seems to span lines: then it may hold good records.
    """

    source: Source
    record: int
    reason: str
    text: str = ""
    lines: bool = False


BROKEN_QUOTE = "a quote that is not closed or stands inside a field"
_REASONS = {
    "INVALID ENCODING": "not UTF-8",
    "UNQUOTED VALUE": BROKEN_QUOTE,
    "LINE SIZE OVER MAXIMUM": "longer than a record may be",
}


def rejected(connection: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> list[Malformed]:
    """Takes what the latest scans of delimited text rejected, one entry per record, in input order."""
    by_path = {str(source.path): source for source in sources}
    order = {str(source.path): position for position, source in enumerate(sources)}
    # one record has one error per field that is missing: the first says how many there are
    rows = connection.execute(
        """
        WITH scans AS (SELECT DISTINCT scan_id, file_id, file_path FROM reject_scans),
        errors AS (SELECT *, coalesce(column_idx, 0) AS field FROM reject_errors)
        SELECT file_path, line, arg_min(error_type, field), arg_min(error_message, field),
               arg_max(error_message, field), min(csv_line)
        FROM errors JOIN scans USING (scan_id, file_id) GROUP BY file_path, line
        """
    ).fetchall()
    connection.execute("DELETE FROM reject_errors")
    connection.execute("DELETE FROM reject_scans")
    found = []
    for path, line, error, first, last, text in sorted(rows, key=lambda row: (order.get(row[0], -1), row[1])):
        if path in by_path:
            source, text = by_path[path], (text or "").strip("\r\n")
            reason = _REASONS.get(error) or _field_count(source, last if error == "TOO MANY COLUMNS" else first)
            spans = error in _REASONS and ("\n" in text or "\r" in text)
            found.append(Malformed(source, int(line), reason, text, spans))
    return found


def _field_count(source: Source, message: str) -> str:
    """DuckDB's `Expected Number of Columns: 4 Found: 3`, in the words of the other reasons."""
    expected, _, came = message.removeprefix("Expected Number of Columns: ").partition(" Found: ")
    owner = "the configuration names" if source.columns else "the header has"
    return f"{came.strip()} fields, {owner} {expected.strip()}" if came else message.splitlines()[0]


# DuckDB takes NaN and Infinity for numbers
_NO_OBJECT = (
    "CASE WHEN CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' END "
    "THEN 'NaN or Infinity, which JSON does not have' ELSE 'not a JSON object' END"
)


def not_json(connection: duckdb.DuckDBPyConnection, staged: str, sources: Sequence[Source]) -> list[Malformed]:
    """The lines of `staged` that are neither blank nor a JSON object."""
    rows = connection.execute(
        f"SELECT source, number, {_NO_OBJECT}, line FROM (SELECT source, line, good, "
        "row_number() OVER (PARTITION BY source ORDER BY "
        f"rowid) AS number FROM {staged}) WHERE NOT good AND trim(coalesce(line, ''), ' \t\r') <> '' "
        "ORDER BY source, number"
    ).fetchall()
    return [Malformed(sources[source], int(number), reason, line) for source, number, reason, line in rows]


def records(source: Source) -> Iterator[tuple[int, int, bytes]]:
    """Every record of a text file, header and blank lines included: number, first physical line, bytes.

    JSON lines are one record each. In delimited text a quoted field may span lines:
    A quote opens a field only at its start; inside, two quotes are one. After a closed quote anything but a delimiter
    or a line end breaks the record, which then ends with the line.

    Raises:
        DataError: where the file cannot be read to its end.
    """
    header = input_files.head(source) if source.suffix in input_files.DELIMITERS else None
    mark = header[1].encode() if header else b""
    number, line = 0, 0
    try:
        with input_files.open_bytes(source.path) as file:
            for text in file:
                line += 1
                first = line
                if mark and b'"' in text:
                    while _open_quote(text, mark):
                        more = file.readline()
                        if not more:
                            break
                        text += more
                        line += 1
                number += 1
                yield number, first, text
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source.name}: cannot be read: {error}") from None


def _open_quote(text: bytes, delimiter: bytes) -> bool:
    """Whether a record's text so far ends inside a quoted field."""
    position = 3 if text.startswith(b"\xef\xbb\xbf") else 0
    while True:
        if text[position : position + 1] == b'"':
            position += 1
            while True:
                close = text.find(b'"', position)
                if close < 0:
                    return True
                if text[close + 1 : close + 2] != b'"':
                    break
                position = close + 2
            position = close + 1
            if text[position : position + 1] not in (delimiter, b"\n", b"\r", b""):
                return False
        found = text.find(delimiter, position)
        if found < 0:
            return False
        position = found + 1


@dataclass(frozen=True)
class Place:
    """Where a record stands and what it says."""

    line: int
    text: str


def find(
    source: Source, wanted: Collection[int], malformed: Collection[Malformed]
) -> tuple[dict[int, Place], dict[int, Place]]:
    """Reads a text file up to its last bad record.

    Args:
        source: the file.
        wanted: positions among its good records, from 0.
        malformed: its malformed records.

    Returns:
        The places of `wanted`, and those of `malformed` by record number.
    """
    delimited = source.suffix in input_files.DELIMITERS
    header = input_files.head(source) if delimited else None
    first = 2 if delimited and not source.columns else 1
    blank_is_row = header is not None and len(header[0]) == 1  # as DuckDB has it: a row without a value
    rejected_numbers = {record.record for record in malformed}
    good: dict[int, Place] = {}
    bad: dict[int, Place] = {}
    last_good = max(wanted, default=-1)
    last_bad = max(rejected_numbers, default=0)
    wanted = set(wanted)
    position = -1
    for number, line, text in records(source):
        if number in rejected_numbers:
            bad[number] = _place(line, text)
        elif number >= first and (blank_is_row or text.strip(b"\r\n" if delimited else b" \t\r\n")):
            position += 1
            if position in wanted:
                good[position] = _place(line, text)
        if position >= last_good and number >= last_bad:
            break
    return good, bad


def _place(line: int, text: bytes) -> Place:
    return Place(line, text.decode("utf-8", errors="replace").rstrip("\r\n"))
