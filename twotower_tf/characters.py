"""Escapes control characters in texts from data, for terminals and for lines of files; reads lists of ids."""

from __future__ import annotations

import re

LINE_BREAKS = "\t\n\r\x00"  # characters that an id in tab-separated values cannot have
LINE_BREAKING = f"[{LINE_BREAKS}]"  # regular expression of one of them

# C0 and C1 controls (ESC among them) except tab and line feed, DEL, line and paragraph separators, characters that
# change the direction of text, and halves of surrogate pairs, which no encoding can write.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_CONTROLS = re.compile(f"{_CONTROLS.pattern}|[\t\n]")


def escape_controls(text: str) -> str:
    r"""Writes `\u001b` for ESC, and so on: safe on a terminal, and inside a JSON string still the same value."""
    return _CONTROLS.sub(_code, text)


def escape_line(text: str) -> str:
    r"""Escapes as `escape_controls`, and also line feed (`\u000a`) and tab (`\u0009`): the text fits one table cell."""
    return _LINE_CONTROLS.sub(_code, text)


def split_ids(content: bytes) -> list[str]:
    """Splits a file of ids, one a line in UTF-8; skips empty lines and a byte order mark.

    Raises:
        UnicodeDecodeError: where it is not UTF-8.
    """
    lines = (line.removesuffix("\r") for line in content.decode("utf-8-sig").split("\n"))
    return [line for line in lines if line]


def _code(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
