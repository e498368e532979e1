"""Divides text into records by searches over blocks: lines that are one record each are passed on in runs.

A line without quotes is one, and one whose fields are quoted as they should be. Only other lines, those with a line end
or a quote inside a field, are read one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from twotower_tf.tables.text_marks import CLOSED, OPEN, Marks, scan_line, skip_mark

PLAIN = "plain"  # the state of a run
_BLOCK = 1 << 22
_SHORTEST = 4  # bytes of two fields with nothing but quotes, and the line end
_LOOKED_AT = 1 << 15  # bytes whose quotes are looked at together
_INNER_RETURN = re.compile(rb"\r[^\r\n]")


class Run(NamedTuple):
    """Consecutive lines.

    Attributes:
        text: the lines, with their ends.
        state: `PLAIN`, every line is a record, not broken; otherwise it is one record, with the state of `scan_line`.
    """

    text: bytes
    state: str


class RunReader:
    """Iterates over the runs of a text file, header and blank lines included."""

    def __init__(self, file: IO[bytes], marks: Marks, longest: int = 0) -> None:
        """Begins at the file's position.

        Args:
            file: of UTF-8 text.
            marks: of delimited text; without a quote, every line is a record.
            longest: bytes after which a quoted field counts as open. A record that is broken is then its first line
                alone, and so is a line with a carriage return inside. 0: a broken record ends with the line that breaks
                it, or with the file; carriage returns are not looked for.
        """
        self._file, self._marks, self._longest = file, marks, longest
        self._text, self._at = b"", 0
        self._all_quoted = True  # it seems that every field is
        self._quote = self._return = 0  # places before which there is none after the position that matters

    def __iter__(self) -> Iterator[Run]:
        while self._at < len(self._text) or self._fill():
            whole = self._text.rfind(b"\n", self._at) + 1
            if not whole:
                if self._fill():
                    continue
                whole = len(self._text)
            odd = self._find_odd(whole)
            start = whole if odd == whole else self._text.rfind(b"\n", self._at, odd) + 1 or self._at
            if start > self._at:
                yield self._take(start, PLAIN)
            if odd < whole:
                yield self._take_record()

    def _fill(self) -> bool:
        """Reads on; the text then begins at the position."""
        rest = self._text[self._at :]
        more = self._file.read(max(_BLOCK, len(rest)))
        self._text = rest + more
        self._quote, self._return, self._at = max(0, self._quote - self._at), max(0, self._return - self._at), 0
        return bool(more)

    def _take(self, end: int, state: str) -> Run:
        text, self._at = self._text[self._at : end], end
        return Run(text, state)

    def _find_odd(self, end: int) -> int:
        """Returns the place before `end` of what makes a line more than plain; `end` where there is none."""
        if self._quote <= self._at < end:
            self._quote = self._find_odd_quote(end) if self._marks.quote else end
        if self._return <= self._at < end:
            match = _INNER_RETURN.search(self._text, self._at, end) if self._longest else None
            self._return = match.start() if match else end
        return min(end, self._quote, self._return)

    def _find_odd_quote(self, end: int) -> int:
        """Returns the place of a quote that is not at the border of a field, or of a line end inside of one."""
        looked = self._at
        while (quote := self._text.find(self._marks.quote, looked, end)) >= 0:
            begin = self._text.rfind(b"\n", looked, quote) + 1 or looked
            stop = self._text.rfind(b"\n", quote, min(end, quote + _LOOKED_AT)) + 1
            stop = stop or self._text.find(b"\n", quote, end) + 1 or end
            odd = quote if self._marks.escape != self._marks.quote else self._check_lines(begin, stop)
            if odd >= 0:
                return odd
            looked = stop
        return end

    def _check_lines(self, begin: int, stop: int) -> int:
        """Returns the first such place in whole lines; -1 where every quote opens or closes a field, or is doubled."""
        if len(self._marks.delimiter) != 1 or len(self._marks.quote) != 1:
            return self._text.find(self._marks.quote, begin, stop)
        if self._all_quoted:
            place = self._find_unpaired(begin, stop)
            if place < 0:
                return -1
            line = self._text.rfind(b"\n", begin, place) + 1 or begin
            odd = self._check_quotes(line, self._text.find(b"\n", place, stop) + 1 or stop)
            if odd >= 0:
                return odd
            self._all_quoted = False  # a line may be in order without quotes around every field
        return self._check_quotes(begin, stop)

    def _find_unpaired(self, begin: int, stop: int) -> int:
        """Returns the first place in whole lines that is not in order where every field is quoted; -1 where all are.

        A quote that closes a field is then followed by a delimiter or line end, and by one that opens a field. If all
        quotes but the first and the last are in one such pair, and so are the line ends but the last, no field contains
        a quote or line end.
        """
        text = np.frombuffer(self._text, np.uint8, stop - begin, begin)
        quotes, ends = text == self._marks.quote[0], text == ord("\n")
        if len(text) < _SHORTEST or not (quotes[0] and quotes[-2] and ends[-1]):
            return begin
        pairs = quotes[:-2] & ((text == self._marks.delimiter[0]) | ends)[1:-1] & quotes[2:]
        paired, ended = np.count_nonzero(pairs), np.count_nonzero(pairs & ends[1:-1])
        in_two = pairs[:-2] & pairs[2:]
        if (np.count_nonzero(quotes), np.count_nonzero(ends)) == (2 * paired + 2, ended + 1) and not in_two.any():
            if not pairs[0] and not pairs[-2]:
                return -1
        unpaired = quotes | ends
        for part in (unpaired[:-2], unpaired[1:-1], unpaired[2:]):
            part &= ~pairs
        unpaired[2:-2] |= in_two
        unpaired[0] = pairs[0]
        return begin + int(unpaired.argmax())

    def _check_quotes(self, begin: int, stop: int) -> int:
        """Returns the first place in whole lines that is not in order, whether fields are quoted or not; else -1."""
        delimiter, quote = self._marks.delimiter, self._marks.quote[0]
        line_end = ord("\n")
        text = np.frombuffer(b"\n%b\n" % self._text[begin:stop], np.uint8)  # a line end before and after
        quotes, ends = np.flatnonzero(text == quote), np.flatnonzero(text[:-1] == line_end)
        before, after = text[quotes[0::2] - 1], text[quotes[1::2] + 1]
        opens = (before == delimiter[0]) | (before == line_end) | (before == quote)
        closes = (after == delimiter[0]) | (after == line_end) | (after == quote) | (after == ord("\r"))
        inside = np.searchsorted(quotes, ends) % 2 == 1
        odd = [*quotes[0::2][~opens][:1], *quotes[1::2][~closes][:1], *ends[inside][:1]]
        if not odd and len(quotes) % 2:  # the last line of the file, which has no end
            odd = [quotes[-1]]
        return begin + int(min(odd)) - 1 if odd else -1

    def _take_record(self) -> Run:
        """Takes the record that begins at the position; reads on where it does not end in the text."""
        first = size = self._find_line_end(0)
        text = self._text[self._at : self._at + size]
        state, _ = scan_line(text, self._marks, skip_mark(text))
        while state == OPEN:
            begin = self._find_quoted_line(size)
            if begin < 0:
                size = len(self._text) - self._at
                break
            size = self._find_line_end(begin)
            state, _ = scan_line(self._text[self._at + begin : self._at + size], self._marks, inside=True)
        return self._take(self._at + (first if self._longest and state != CLOSED else size), state)

    def _find_line_end(self, begin: int) -> int:
        """Returns the end of the line that begins so many bytes after the position."""
        while (end := self._text.find(b"\n", self._at + begin)) < 0:
            if not self._fill():
                return len(self._text) - self._at
        return end + 1 - self._at

    def _find_quoted_line(self, begin: int) -> int:
        """Finds the next line with a quote, in bytes after the position; -1 where none follows or it is too far."""
        looked = begin
        while (quote := self._text.find(self._marks.quote, self._at + looked)) < 0:
            looked = len(self._text) - self._at
            if self._is_too_far(self._text.rfind(b"\n", self._at) + 1 - self._at) or not self._fill():
                return -1
        line = max(begin, self._text.rfind(b"\n", self._at, quote) + 1 - self._at)
        return -1 if self._is_too_far(line) else line

    def _is_too_far(self, begin: int) -> bool:
        return bool(self._longest) and begin > self._longest
