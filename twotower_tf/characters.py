"""Characters in texts from data that a line of a file cannot hold, or that a terminal obeys instead of showing."""

from __future__ import annotations

import re

LINE_BREAKING = "[\t\n\r\x00]"  # regular expression: what an id on a line of tab-separated values cannot hold

# C0 and C1 controls (ESC among them) but tab and line feed, DEL, line and paragraph separators, what changes the
# direction of the text after it, and halves of surrogate pairs, which no encoding can write.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ON_A_LINE = re.compile(f"{_OBEYED.pattern}|[\t\n]")


def escape_controls(text: str) -> str:
    r"""The text with `\u001b` for ESC, and so on: safe on a terminal, and inside a JSON string still the same value."""
    return _OBEYED.sub(_code, text)


def escape_line(text: str) -> str:
    r"""`escape_controls`, and also `\u000a` for a line feed and `\u0009` for a tab: one cell of one line."""
    return _ON_A_LINE.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
