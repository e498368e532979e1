"""Time columns: which of the known forms a column has, and the SQL that reads it as epoch seconds, UTC.

The form is decided once for the whole column, so that one odd value cannot change how the others are read: the first
form in the order below that reads more than half of the column's values.

1. `timestamp_format`, where the configuration gives one (strptime; nothing else is tried).
2. `YYYYMMDD`, `YYYYMMDDHH`, `YYYYMMDDHHmm`, `YYYYMMDDHHmmss`: 8, 10, 12 or 14 digits that are a real date between
   1900 and 2099. Such a number could be an epoch time too (20141021 seconds is August 1970); a column in which most
   values happen to be dates is one of dates.
3. `YYMMDDHH`: 8 digits that are a real date and hour of 2000 to 2099 (Avazu: 14102100 is 2014-10-21 00:00). Where 8
   digits fit both forms (20101021), the four-digit year wins.
4. ISO 8601: `2014-10-21`, `2014-10-21T08:30:00Z`, `2014-10-21 08:30:00.5+02:00`; without an offset it is UTC.
5. Numbers: epoch milliseconds where more than half of them are at least 1e11 in size (1973 as milliseconds, the year
   5138 as seconds), else epoch seconds. Small and negative integers are seconds: a log without times may give the
   place in the user's order. Fractions of a second are cut off.

Columns that already have a time type are read as such (no offset: UTC). A value that the chosen form does not read,
or that lies outside the years 1 to 9999, is no time: its row is quarantined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import duckdb

from twotower_tf.data.engine import one, reason
from twotower_tf.data.values import INTEGERS, literal, text_sql
from twotower_tf.errors import DataError

_SECONDS = "epoch seconds"
_MILLISECONDS = "epoch milliseconds"
_EARLIEST, _LATEST = -62135596800, 253402300799  # the years 1 and 9999
_MILLISECONDS_FROM = "1e11"

_ISO = (
    r"\d{4}-\d{2}-\d{2}"
    r"([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?)?"
)

# name: (pattern of the text, strptime format, prefix put before the text)
_COMPACT: dict[str, tuple[str, str, str]] = {
    "YYYYMMDD": (r"(19|20)\d{6}", "%Y%m%d", ""),
    "YYYYMMDDHH": (r"(19|20)\d{8}", "%Y%m%d%H", ""),
    "YYYYMMDDHHmm": (r"(19|20)\d{10}", "%Y%m%d%H%M", ""),
    "YYYYMMDDHHmmss": (r"(19|20)\d{12}", "%Y%m%d%H%M%S", ""),
    "YYMMDDHH": (r"\d{8}", "%Y%m%d%H", "20"),
}


@dataclass(frozen=True)
class Clock:
    """How a column is read.

    Attributes:
        form: the name of the form, for messages and the manifest.
        seconds: SQL for epoch seconds (BIGINT) of the column's expression; NULL where it is no time.
    """

    form: str
    seconds: str


def _whole(seconds: str) -> str:
    """SQL: `seconds` (a number) cut to whole seconds, NULL outside the years 1 to 9999."""
    return f"CASE WHEN {seconds} BETWEEN {_EARLIEST} AND {_LATEST} THEN CAST(floor({seconds}) AS BIGINT) END"


def _text_forms(text: str) -> dict[str, str]:
    """Name -> SQL of seconds, for each form of texts and in order of preference, numbers excepted."""
    forms = {
        name: f"CASE WHEN regexp_full_match({text}, '{pattern}') "
        f"THEN CAST(epoch(try_strptime('{prefix}' || {text}, '{form}')) AS BIGINT) END"
        for name, (pattern, form, prefix) in _COMPACT.items()
    }
    iso = f"epoch(TRY_CAST({text} AS TIMESTAMPTZ))"
    forms["ISO 8601"] = f"CASE WHEN regexp_full_match({text}, '{_ISO}') THEN {_whole(iso)} END"
    return forms


def _number_forms(number: str) -> dict[str, str]:
    return {_SECONDS: _whole(number), _MILLISECONDS: _whole(f"({number} / 1000)")}


def choose(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    expression: str,
    kind: str,
    *,
    column: str,
    form: str = "",
    field: str = "data.timestamp",
    example: Callable[[str], str] = lambda condition: "",
) -> Clock:
    """Decides how a column is read.

    Args:
        connection: where `relation` lives.
        relation: SQL of the table that holds the column.
        expression: SQL of the column.
        kind: its DuckDB type.
        column: its name, for messages.
        form: `DataConfig.timestamp_format`.
        field: the configuration's field that names the column, for messages.
        example: gives, for an SQL condition on the column, " e.g. VALUE at FILE:LINE" of a row that meets it.

    Raises:
        DataError: where no form reads more than half of the values, or `form` is no strptime format.
    """
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return Clock("a time", _whole(f"epoch({expression})"))
    text = f"trim({text_sql(expression, kind)})"
    if form:
        parsed = f"try_strptime({text}, {literal(form)})"
        candidates = {form: _whole(f"epoch({parsed})")}
    elif kind in INTEGERS or kind in ("VARCHAR",):
        candidates = _text_forms(text) | _number_forms(f"TRY_CAST({text} AS DOUBLE)")
    else:
        candidates = _number_forms(f"TRY_CAST({expression} AS DOUBLE)")
    counts = [f"count({seconds})" for seconds in candidates.values()]
    large = f"count(*) FILTER (abs(TRY_CAST({text} AS DOUBLE)) >= {_MILLISECONDS_FROM})"
    present = f"count(*) FILTER ({text} <> '')"
    try:
        total, millions, *rest = one(connection, f"SELECT {present}, {large}, {', '.join(counts)} FROM {relation}")
    except duckdb.Error as error:
        if not form:
            raise
        raise DataError(f"data.timestamp_format: {form!r} is no strptime format: {reason(error)}") from None
    read = dict(zip(candidates, rest, strict=True))
    if _SECONDS in read:
        read.pop(_SECONDS if millions * 2 > total else _MILLISECONDS)
    for name, count in read.items():
        if count * 2 > total or total == 0:
            return Clock(name, candidates[name])
    best = max(read, key=lambda name: read[name])
    advice = "set data.timestamp_format to their strptime form"
    if field != "data.timestamp":
        advice = "write them as ISO 8601 or epoch seconds"
    unread = example(f"({candidates[best]}) IS NULL AND {text} <> ''")
    raise DataError(
        f"{field}: column {column!r}: {total - read[best]} of {total} values are no time"
        f"{' in the form ' + form if form else ''}{unread and ';' + unread}; {advice}"
    )
