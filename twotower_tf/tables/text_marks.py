"""Divides lines of delimited text by delimiter, quote and escape, as DuckDB does."""

from __future__ import annotations

from dataclasses import dataclass

from twotower_tf.tables.read_options import ReadOptions

_BLANK = ord(" ")


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

    def open_quote(self, text: bytes, position: int) -> int:
        """Returns the position after the quote that opens the field at `position`; -1 for a field without quotes.

        DuckDB accepts one blank before the quote.
        """
        if self.quote and text.startswith(self.quote, position):
            return position + 1
        blank = self.quote and text.startswith(b" " + self.quote, position) and not self.delimiter.startswith(b" ")
        return position + 2 if blank else -1

    def skip_blanks(self, text: bytes, position: int, end: int) -> int:
        """Returns the position after the blanks that DuckDB accepts between a closing quote and what follows."""
        while position < end and text[position] == _BLANK and not text.startswith(self.delimiter, position):
            position += 1
        return position


def skip_mark(text: bytes) -> int:
    """Returns the position after a byte order mark."""
    return 3 if text.startswith(b"\xef\xbb\xbf") else 0


CLOSED, OPEN = "closed", "open"  # states at the end of a line: outside, and inside of a quoted field
QUOTE = "quote"  # a closed quote is followed by something else than a delimiter or the end
RETURN = "return"  # a carriage return is inside the line


def scan_line(text: bytes, marks: Marks, position: int = 0, *, inside: bool = False) -> tuple[str, int]:
    """Returns the state at the end of a line that begins `inside` a quoted field or not, and the number of fields."""
    end, state, fields = len(text.rstrip(b"\r\n")), CLOSED, 1
    while True:
        opened = position if inside else marks.open_quote(text, position)
        if opened >= 0:
            close = _find_closing_quote(text, marks, opened)
            if close < 0:
                return (OPEN if state == CLOSED else state), 0
            inside, position = False, marks.skip_blanks(text, close + 1, end)
            if position >= end:
                return state, fields
            if not text.startswith(marks.delimiter, position):
                return (QUOTE if state == CLOSED else state), 0
        else:
            found = text.find(marks.delimiter, position, end)
            if b"\r" in text[position : end if found < 0 else found]:
                state = RETURN
            if found < 0:
                return state, fields
            position = found
        position += len(marks.delimiter)
        fields += 1


def _find_closing_quote(text: bytes, marks: Marks, position: int) -> int:
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


def count_fields(text: bytes, marks: Marks) -> int:
    """Counts the fields of a line that is a whole record by itself; 0 for any other line."""
    if not marks.quote or marks.quote not in text:
        return text.count(marks.delimiter) + 1
    return scan_line(text, marks, skip_mark(text))[1]
