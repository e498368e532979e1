"""Detects the delimiter of delimited files, and reads their column names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from twotower_tf.errors import DataError
from twotower_tf.tables import input_files, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.read_options import ReadOptions
from twotower_tf.tables.text_marks import Marks, count_fields

CANDIDATES = ("::", "\t", ";", "|", ",", "\x01", " ")  # \x01 is Hive's
_LONGEST = 1 << 20  # bytes of a line
_LOOKED_AT = 100  # lines that decide on a delimiter
_CONSISTENT = 0.9  # of them, at least, have the same number of fields
_BLANK = b"\r\n\xef\xbb\xbf"  # line ends and the byte order mark


class Header(NamedTuple):
    """The names of a delimited file's columns, "" for one that is read over, and the delimiter between its fields."""

    names: list[str]
    delimiter: str


def read_header(source: InputFile) -> Header | None:
    """Reads the column names and the delimiter of a delimited file; None where it is empty.

    Raises:
        DataError: where the first line is not a header, or is one although the names are given.
    """
    lines = read_first_lines(source, 1 if source.options.delimiter else _LOOKED_AT)
    if not lines:
        return None
    given = source.columns
    if re.fullmatch(rb'"?sep=.{1,2}"?', lines[0]):
        raise DataError(f"{source.name}:1: a line for Excel, {lines[0].decode('utf-8', 'replace')!r}; remove it")
    delimiter = find_delimiter(source, lines)
    try:
        line = lines[0].decode("utf-8", "replace" if given else "strict")
        names = split_line(line, delimiter, source.options)
    except UnicodeDecodeError:
        raise DataError(
            f"{source.name}:1: the header is not UTF-8; set data.encoding, e.g. to latin-1, or convert the file"
        ) from None
    except csv.Error as error:
        raise DataError(f"{source.name}:1: the header cannot be read: {error}") from None
    if given:
        if names == list(given):
            raise DataError(
                f"{source.name}:1: the file has a header line; remove the column names from the configuration"
            )
        return Header(list(given), delimiter)
    named = [name for name in names if name]
    hint = ""
    if any(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", name) for name in names):
        hint = "; if the first line is not a header, name the columns in data.columns"
    twin = next((name for place, name in enumerate(named) if name in named[:place]), None)
    if twin is not None:
        raise DataError(f"{source.name}:1: two columns are named {twin!r}{hint}")
    if not named:
        raise DataError(f"{source.name}:1: no column has a name; the first line must name the columns")
    return Header(names, delimiter)


def pin_delimiter(source: InputFile) -> InputFile:
    """Returns a delimited file with its detected delimiter, for copies of parts of it; any other file itself."""
    header = read_header(source) if source.suffix in input_files.DELIMITERS else None
    if header is None:
        return source
    text = replace(source.options.text, delimiter=header.delimiter)
    return replace(source, options=replace(source.options, text=text))


def read_first_lines(source: InputFile, count: int) -> list[bytes]:
    """Reads the first lines that are not blank, without a byte order mark, as UTF-8.

    Raises:
        DataError: for a file that cannot be read.
    """
    found: list[bytes] = []
    try:
        with text_encoding.open_text(source) as file:
            for line in _read_lines(file):
                if not line.strip(_BLANK):
                    continue
                found.append(line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n"))
                if len(found) == count:
                    break
    except input_files.READ_ERRORS as error:
        if not found:
            raise DataError(f"{source.name}: cannot be read: {error}") from None
    return found


def _read_lines(file: object) -> Iterator[bytes]:
    while line := file.readline(_LONGEST):  # type: ignore[attr-defined]
        yield line


def find_delimiter(source: InputFile, lines: Sequence[bytes]) -> str:
    """Finds the delimiter of a delimited file: the configured one, or one that fits its first lines.

    The suffix's own (comma, tab) if the first line has it; else the first of `CANDIDATES` by which nearly all lines
    have the same number of fields, that of the given columns where there are any; else the first that the first line
    has, blanks excepted.
    """
    if source.options.delimiter:
        return source.options.delimiter
    own = input_files.DELIMITERS[source.suffix]
    first, fields = lines[0].decode("utf-8", "replace"), len(source.columns)
    if own and own in first and fields in (0, count_fields(lines[0], Marks.of(source.options, own))):
        return own
    for mark in CANDIDATES:
        marks = Marks.of(source.options, mark)
        counts = [count_fields(line, marks) for line in lines] if mark in first else [1]
        expected = fields or counts[0]
        if expected > 1 and counts.count(expected) >= _CONSISTENT * len(counts):
            return mark
    return next((mark for mark in (own, *CANDIDATES[:-1]) if mark and mark in first), own or ",")


def split_line(line: str, delimiter: str, options: ReadOptions) -> list[str]:
    """Divides a line into its fields.

    Raises:
        csv.Error: for a field that is too long.
    """
    quote, escape = options.quote, options.escape
    if not quote or quote not in line:
        return line.split(delimiter)
    if len(delimiter) > 1:  # csv has delimiters of one character
        line, delimiter = line.replace("\x1f", "").replace(delimiter, "\x1f"), "\x1f"
    doubled = escape == quote
    reader = csv.reader(
        [line],
        delimiter=delimiter,
        quotechar=quote,
        doublequote=doubled,
        escapechar=None if doubled else escape,
    )
    return next(reader)
