"""Proposes strptime formats for times that are not recognised without one: day or month first, names of months."""

from __future__ import annotations

import itertools
from datetime import datetime

from twotower_tf import sql
from twotower_tf.sql import Connection, quote_literal

_ROWS = 10_000  # that are tried
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%y", "%m/%d/%y",
         "%d.%m.%y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")  # fmt: skip
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %H:%M:%S", "T%H:%M:%S")
_WHOLE = (
    "%a, %d %b %Y %H:%M:%S %Z",  # RFC 2822
    "%a, %d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %z %Y",  # Twitter
    "%a %b %d %H:%M:%S %Y",  # C's asctime
    "%d/%b/%Y:%H:%M:%S %z",  # web servers' logs
)
FORMATS = (*(day + clock for day, clock in itertools.product(_DAYS, _CLOCKS)), *_WHOLE)


def propose_formats(connection: Connection, relation: str, text: str) -> list[str]:
    """Returns the formats that read every `text` in the first rows; several where day and month are ambiguous."""
    found = connection.execute(
        f"SELECT DISTINCT {text} FROM {relation} WHERE rowid < {_ROWS} AND {text} <> ''"
    ).fetchall()
    values = sorted(str(value) for (value,) in found)
    if not values:
        return []
    return [form for form in FORMATS if all(_reads(form, value) for value in values) and _agrees(form, values)]


def _reads(form: str, value: str) -> bool:
    try:
        return 1900 <= datetime.strptime(value, form).year < 2200
    except ValueError:
        return False


def _agrees(form: str, values: list[str]) -> bool:
    """Tests that DuckDB reads the values in a format that Python reads."""
    tests = " AND ".join(
        f"try_strptime({quote_literal(value)}, {quote_literal(form)}) IS NOT NULL" for value in values[:10]
    )
    with sql.connect(threads=1) as connection:
        return bool(connection.execute(f"SELECT {tests}").fetchall()[0][0])
