"""Writes ids and categories as canonical text, in Python and in SQL.

A missing value (null, NaN, pandas' NA and NaT, "") is "" in Python and NULL in SQL. Integers are decimal text, integral
floating point numbers are written as integers (`3.0` is "3"), booleans are "true" and "false", other floating point
numbers are the shortest text that reads back to the same number. Decimals keep all of their digits, without trailing
zeros of a fraction (`1.50` is "1.5", `3.00` is "3"). Text is unchanged. A test checks that Python and SQL agree.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np

from twotower_tf.sql import quote_literal

_EXACT = 2**63  # integral floats below it are written as integers, larger ones with an exponent

_FLOAT_DIGITS = (6, 7, 8, 9)  # nine always read back to the same float32

_PANDAS_MISSING = ("NAType", "NaTType")  # by name: pandas need not be installed

FLOATS = frozenset({"FLOAT", "DOUBLE"})
INTEGERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
)


def is_missing(value: Any) -> bool:
    """Tests whether a scalar is missing: None, "", NaN, and NA and NaT of pandas and NumPy."""
    if value is None or (isinstance(value, str) and not value):
        return True
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return type(value).__name__ in _PANDAS_MISSING


def as_text(value: Any) -> str:
    """Returns the canonical text of a scalar; "" for a missing value."""
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8")
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return _float_text(value)
    if isinstance(value, Decimal):
        return _decimal_text(value)
    return str(value)


def _float_text(value: float | np.floating[Any]) -> str:
    if isinstance(value, np.float16):  # Arrow and DuckDB convert it to float32
        value = np.float32(value)
    number = float(value)
    if number.is_integer() and abs(number) < _EXACT:
        return str(int(number))
    if isinstance(value, np.float32) and math.isfinite(number):
        texts = (f"{number:.{digits}g}" for digits in _FLOAT_DIGITS)
        number = next(float(text) for text in texts if np.float32(text) == value)
    return repr(number)


def _decimal_text(value: Decimal) -> str:
    if not value:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def text_sql(expression: str, kind: str, separator: str = "") -> str:
    """Returns SQL for the canonical text of `expression`, whose DuckDB type is `kind`; NULL for a missing value.

    A list becomes its elements' texts joined by `separator`.
    """
    if kind == "VARCHAR":
        return f"nullif({expression}, '')"
    if kind.endswith("[]"):
        element = text_sql("element", kind[:-2])
        texts = f"list_filter(list_transform({expression}, lambda element: {element}), lambda text: text IS NOT NULL)"
        return f"nullif(array_to_string({texts}, {quote_literal(separator)}), '')"
    if kind.startswith("DECIMAL"):
        digits = f"CAST({expression} AS VARCHAR)"
        return f"CASE WHEN contains({digits}, '.') THEN rtrim(rtrim({digits}, '0'), '.') ELSE {digits} END"
    if kind in FLOATS:
        exact = f"abs({expression}) < 9223372036854775808 AND {expression} = trunc({expression})"
        return (
            f"CASE WHEN isnan({expression}) THEN NULL "
            f"WHEN {exact} THEN CAST(CAST({expression} AS BIGINT) AS VARCHAR) "
            f"ELSE CAST({_double(expression) if kind == 'FLOAT' else expression} AS VARCHAR) END"
        )
    return f"CAST({expression} AS VARCHAR)"


def _double(expression: str) -> str:
    """Returns SQL for the double with the fewest digits that rounds to this float32 (0.1 for float32's 0.1)."""
    wide = f"CAST({expression} AS DOUBLE)"
    texts = [f"format('{{:.{digits}g}}', {wide})" for digits in _FLOAT_DIGITS]
    branches = "".join(f"WHEN CAST({text} AS FLOAT) = {expression} THEN CAST({text} AS DOUBLE) " for text in texts[:-1])
    return f"CASE WHEN isinf({expression}) THEN {wide} {branches}ELSE CAST({texts[-1]} AS DOUBLE) END"


def number_sql(expression: str, kind: str) -> str:
    """Returns SQL for `expression` as a finite double; NULL for anything else."""
    if kind.endswith("[]"):
        return "CAST(NULL AS DOUBLE)"
    number = f"TRY_CAST({expression} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def is_nested(kind: str) -> bool:
    """Tests whether the values of a DuckDB type are neither scalars nor lists of scalars."""
    return kind.startswith(("STRUCT", "MAP", "UNION")) or "[]" in kind.removesuffix("[]") or kind.endswith(")[]")


def python_literal(text: str) -> str:
    """Quotes `text` as a Python string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
