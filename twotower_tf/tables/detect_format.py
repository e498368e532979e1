"""Detects how a delimited file is written: delimiter, quotes, encoding, header line, decimal mark, missing values.

The first lines decide. A proposal of a configuration uses it; the readers themselves detect nothing but delimiters.
"""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from twotower_tf.config import TextFormat
from twotower_tf.config.data import ALIGNED
from twotower_tf.tables import delimited_header, input_files, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.read_options import ReadOptions
from twotower_tf.tables.text_marks import Marks, count_fields

NULL_MARKERS = tuple(r"\N NULL null NaN nan None none N/A n/a #N/A NA <NA> NaT (null)".split())
_LINES = 2_000  # that are looked at
_DECODED = 1 << 24  # bytes that show the encoding
FREQUENT_MARKER = 0.01  # share of a column's values, from which on a marker is proposed or reported
_ID = re.compile(rb"[A-Za-z0-9_.:-]+")
_COMMA = re.compile(r"[+-]?\d{1,15},\d{1,15}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\d.*|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}.*")
# quote and escape, in the order of preference
_QUOTINGS = (('"', ""), ('"', "\\"), ("", ""), ("'", ""), ("'", "\\"))


@dataclass(frozen=True)
class DetectedFormat:
    """How a file is written, as far as its first lines show.

    Attributes:
        options: for reading it; `columns` are those given.
        header: whether its first line names the columns.
        lists: whether it has lists `user item item ...`, lines of different lengths without a header, which
            `twotower dataset lists` converts.
        reason: why the first line is not a header, for messages; "" where it is one.
        first: the fields of the first line.
        rows: the fields of the lines after the header (of all lines without one) that could be divided.
        markers: the texts of `options.null_values`, each with the place of a column and its share of that column.
    """

    options: ReadOptions
    header: bool
    reason: str
    first: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    markers: tuple[tuple[str, int, float], ...] = ()
    lists: bool = False


def detect_format(source: InputFile) -> DetectedFormat:
    """Detects how a delimited file is written; what `source.options` sets (columns, a delimiter) is kept.

    Raises:
        DataError: for a file that cannot be read.
    """
    given = source.options
    if source.suffix not in input_files.DELIMITERS:
        return DetectedFormat(given, True, "", (), ())
    text = given.text if given.text != TextFormat() else replace(given.text, encoding=_detect_encoding(source))
    source = replace(source, options=replace(given, text=text))
    lines = delimited_header.read_first_lines(source, _LINES)
    if not lines:
        return DetectedFormat(source.options, True, "", (), ())
    if not given.columns and _has_lists(lines):
        reason = "lines 'user item item ...' have different lengths"
        return DetectedFormat(
            source.options, False, reason, tuple(lines[0].decode("utf-8", "replace").split()), (), (), True
        )
    options = _detect_quoting(source, lines)
    if not given.delimiter and not _is_divided(lines, options):
        aligned = replace(given, text=replace(text, delimiter=ALIGNED))
        divided = delimited_header.read_first_lines(replace(source, options=aligned), _LINES)
        if _is_divided(divided, aligned):
            options, lines = aligned, divided
    delimiter = options.delimiter
    if given.delimiter == "" and not options.aligned and delimiter == input_files.DELIMITERS[source.suffix]:
        options = replace(options, text=replace(options.text, delimiter=""))  # the readers find it
    rows = _divide_lines(lines, delimiter, options)
    if not given.delimiter and len(delimiter) == 1 and delimiter != " " and _has_blanks(rows):
        delimiter += " "
        options = replace(options, text=replace(options.text, delimiter=delimiter))
        rows = _divide_lines(lines, delimiter, options)
    first, rows = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    reason = "" if given.columns else _why_no_header(first, rows)
    has_header = not given.columns and not reason
    values = rows if has_header else [first, *rows]
    if _has_decimal_commas(values, delimiter):
        options = replace(options, text=replace(options.text, decimal=","))
    markers = find_markers(values)
    found = tuple(dict.fromkeys([*given.null_values, *(marker for marker, _, _ in markers)]))
    return DetectedFormat(
        replace(options, null_values=found), has_header, reason, tuple(first), tuple(map(tuple, values)), markers
    )


def _detect_encoding(source: InputFile) -> Literal["utf-8", "latin-1"]:
    """Returns utf-8 where the beginning of the file is, else latin-1, in which every byte is a character."""
    try:
        with text_encoding.open_text(source) as file:
            start = file.read(_DECODED)
    except input_files.READ_ERRORS:
        return "utf-8"  # reported where the file is read
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _has_lists(lines: Sequence[bytes]) -> bool:
    """Tests for lines of ids between blanks or tabs, most of them of another length than the first.

    As many tabs in every line are columns, some of them empty.
    """
    tabs = {line.count(b"\t") for line in lines}
    if len(tabs) == 1 and min(tabs) > 1:
        return False
    fields = [line.split() for line in lines]
    lengths = [len(each) for each in fields]
    plain = all(_ID.fullmatch(text) for each in fields for text in each)
    return plain and min(lengths) > 1 and lengths.count(lengths[0]) < len(lengths) / 2 and len(lines) > 1


def _detect_quoting(source: InputFile, lines: Sequence[bytes]) -> ReadOptions:
    """Finds quote, escape and delimiter: the first that divide nearly all lines alike, else those that divide most."""
    best, most = source.options, -1.0
    given = source.options.text
    for quote, escape in _QUOTINGS if given.quote == '"' else [(given.quote, given.escape)]:
        text = replace(given, quote=quote, escape=escape)
        options = replace(source.options, text=text)
        delimiter = delimited_header.find_delimiter(replace(source, options=options), lines)
        opened, wrapped = _count_quoted(lines, delimiter, quote or '"')
        if (quote == "'" and not opened) or (not quote and given.quote and wrapped * 2 > opened):
            continue
        options = replace(options, text=replace(text, delimiter=delimiter))
        marks = Marks.of(options, delimiter)
        counts = [count_fields(line, marks) for line in lines]
        share = counts.count(len(source.columns) or max(counts[0], 1)) / len(counts)
        if share == 1.0:
            return options
        if share > most:
            best, most = options, share
    return best


def _is_divided(lines: Sequence[bytes], options: ReadOptions) -> bool:
    """Tests whether a delimiter divides the lines; blanks must divide all alike, without empty fields."""
    rows = _divide_lines(lines, options.delimiter, options)
    strict = options.aligned or options.delimiter == " "
    alike = not strict or all(len(row) == len(rows[0]) and "" not in row for row in rows)
    return len(rows[0]) > 1 and alike


def _count_quoted(lines: Sequence[bytes], delimiter: str, quote: str) -> tuple[int, int]:
    """Counts the fields that begin with a quote, and those of them that also end with one."""
    mark = quote.encode()
    opened = [field for line in lines for field in line.split(delimiter.encode()) if field.startswith(mark)]
    return len(opened), sum(len(field) > 1 and field.endswith(mark) for field in opened)


def _divide_lines(lines: Sequence[bytes], delimiter: str, options: ReadOptions) -> list[list[str]]:
    found = []
    for line in lines:
        try:
            found.append(delimited_header.split_line(line.decode("utf-8", "replace"), delimiter, options))
        except csv.Error:
            found.append([])
    return found


def _why_no_header(first: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns why the first line is a row like the others; "" where it can be a header.

    A text above numbers or times is a name. Else a number above numbers is a value, and so is a text that occurs again
    in its column.
    """
    repeated = list(first)  # files with headers, one after the other
    rows = [row for row in rows if list(row) != repeated]
    columns = [[row[place] for row in rows if row[place] not in ("", *NULL_MARKERS)] for place in range(len(first))]
    above = list(zip(first, columns, strict=True))
    for name, values in above:
        typed = values and all(_is_value(value) for value in itertools.islice(values, 200))
        if typed and name and name not in NULL_MARKERS and not _is_value(name):
            return ""
    for name, values in above:
        if name and _is_value(name) and values and all(map(_is_value, values)):
            return f"the first line has the value {name!r} where a header has a name"
    for place, (name, _) in enumerate(above):
        if name and any(row[place] == name for row in rows):
            return f"{name!r} of the first line occurs again in its column"
    return ""


def _is_value(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text) or _TIME.fullmatch(text))


def _has_blanks(rows: Sequence[Sequence[str]]) -> bool:
    """Tests whether a blank stands after every delimiter, that of the header too."""
    return len(rows[0]) > 1 and all(field.startswith(" ") for row in rows for field in row[1:])


def _has_decimal_commas(rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Tests whether a column is written with decimal commas: all of its values are numbers, some with a comma."""
    if delimiter == "," or not rows:
        return False
    for column in zip(*rows, strict=True):
        values = [value for value in column if value and value not in NULL_MARKERS]
        with_comma = [value for value in values if _COMMA.fullmatch(value)]
        if with_comma and len(with_comma) > len(values) / 2:
            if all(_COMMA.fullmatch(value) or _NUMBER.fullmatch(value) for value in values):
                return True
    return False


def find_markers(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, int, float], ...]:
    """Finds texts that usually mean a missing value and are frequent: text, place of the column, share of its rows."""
    found = []
    for place, column in enumerate(zip(*rows, strict=True) if rows else ()):
        for marker in NULL_MARKERS:
            share = column.count(marker) / len(column)
            if share >= FREQUENT_MARKER and share < 1.0:
                found.append((marker, place, share))
    return tuple(found)
