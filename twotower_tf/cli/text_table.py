"""Formats plain text tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = (), most: int = 40
) -> str:
    """Formats a table with aligned columns, a header and a rule.

    Args:
        header: one title per column.
        rows: cells as text.
        right: indices of the right-aligned columns.
        most: maximum characters of a cell; longer ones are cut.
    """
    lines = [[_cut(cell, most) for cell in row] for row in [header, *rows]]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(_pad(cell, widths[column], column in right) for column, cell in enumerate(line)).rstrip()
        for line in [lines[0], rule, *lines[1:]]
    )


def _cut(cell: str, most: int) -> str:
    cell = " ".join(cell.split())
    return cell if len(cell) <= most else cell[: most - 1] + "…"


def _width(cell: str) -> int:
    """Returns the width in terminal columns: East Asian wide characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in cell)


def _pad(cell: str, width: int, right: bool) -> str:
    blanks = " " * (width - _width(cell))
    return blanks + cell if right else cell + blanks
