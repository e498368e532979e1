"""Formats numbers for people: shares as percentages, counts with their noun, measurements without exponents."""

from __future__ import annotations

import numpy as np

_DIGITS = 6


def format_percent(share: float) -> str:
    """Formats a share of at least 0: whole percent, two digits below 10 %, never 0 % or 100 % for another share."""
    if share in (0.0, 1.0) or 0.1 <= share < 0.995 or share > 1.0:
        return f"{100 * share:.0f} %"
    if share > 0.9995:
        return "above 99.9 %"
    if share >= 0.995:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.2g} %" if share >= 1e-4 else "below 0.01 %"


def format_count(count: int, noun: str) -> str:
    """Formats a count and a noun whose plural ends with s: "1 epoch", "1,200 epochs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: float, separator: str = ",") -> str:
    """Formats a number with six digits, or all of those before the point, and without an exponent.

    Args:
        value: finite.
        separator: between thousands, from a million on; "" for a number in SQL or Python.
    """
    if abs(value) >= 10**_DIGITS:
        return f"{value:,.0f}".replace(",", separator)
    return np.format_float_positional(float(f"{value:.{_DIGITS}g}"), trim="-")
