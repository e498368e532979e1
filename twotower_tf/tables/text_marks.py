"""Divides lines of delimited text by delimiter, quote and escape, as DuckDB does."""

from __future__ import annotations

from dataclasses import dataclass

from twotower_tf.tables.read_options import ReadOptions


@dataclass(frozen=True)
class Marks:
    """The bytes that divide delimited text: `quote` is empty without quoting, `escape` is the quote if doubled."""

    delimiter: bytes
    quote: bytes
    escape: bytes

    @classmethod
    def of(cls, options: ReadOptions, delimiter: str) -> Marks:
        """Returns the marks of files with a delimiter that may have been detected."""
        return cls(delimiter.encode(), options.quote.encode(), options.escape.encode())


def skip_mark(text: bytes) -> int:
    """Returns the position after a byte order mark."""
    return 3 if text.startswith(b"\xef\xbb\xbf") else 0


def find_closing_quote(text: bytes, marks: Marks, position: int) -> int:
    """Returns the position of the quote that closes a field; -1 where it stays open."""
    while True:
        close = text.find(marks.quote, position)
        if marks.escape == marks.quote:
            if close < 0 or text[close + 1 : close + 2] != marks.quote:
                return close
            position = close + 2
            continue
        escaped = text.find(marks.escape, position, len(text) if close < 0 else close)
        if escaped < 0:
            return close
        position = escaped + 2


def divide_record(text: bytes, marks: Marks) -> int:
    """Counts the fields of a line that is a whole record by itself; 0 for any other line."""
    if not marks.quote or marks.quote not in text:
        return text.count(marks.delimiter) + 1
    position, end, fields = skip_mark(text), len(text.rstrip(b"\r\n")), 0
    while True:
        fields += 1
        if text.startswith(marks.quote, position):
            position = find_closing_quote(text, marks, position + 1) + 1
            if not position or (position < end and not text.startswith(marks.delimiter, position)):
                return 0
            found = position if position < end else -1
        else:
            found = text.find(marks.delimiter, position, end)
        if found < 0:
            return fields
        position = found + len(marks.delimiter)
