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

The form is found on the column's first rows, and confirmed on all of them: it reads more than half, and too few values
could be of an earlier form. Where that fails, every form is tried on every row.

Columns that already have a time type are read as such (no offset: UTC). A value that the chosen form does not read,
or that lies outside the years 1 to 9999, is no time: its row is quarantined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import duckdb

from twotower_tf.data.engine import MACHINE, one, reason
from twotower_tf.data.values import INTEGERS, literal, text_sql
from twotower_tf.errors import DataError

_ISO_NAME = "ISO 8601"
_SECONDS = "epoch seconds"
_MILLISECONDS = "epoch milliseconds"
_EARLIEST, _LATEST = -62135596800, 253402300799  # the years 1 and 9999
_MILLISECONDS_FROM = "1e11"

_ISO = (
    r"\d{4}-\d{2}-\d{2}"
    r"([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?)?"
)

# name: (digits after the century, strptime format, the century where the text has none)
_COMPACT: dict[str, tuple[int, str, str]] = {
    "YYYYMMDD": (6, "%Y%m%d", ""),
    "YYYYMMDDHH": (8, "%Y%m%d%H", ""),
    "YYYYMMDDHHmm": (10, "%Y%m%d%H%M", ""),
    "YYYYMMDDHHmmss": (12, "%Y%m%d%H%M%S", ""),
    "YYMMDDHH": (8, "%Y%m%d%H", "20"),
}
_SAMPLE_ROWS = 10_000


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


@dataclass(frozen=True)
class _Form:
    """A way to read a column.

    Attributes:
        seconds: SQL of the seconds.
        possible: SQL that holds for every value that the form reads, and costs next to nothing.
    """

    seconds: str
    possible: str


def _text_forms(text: str) -> dict[str, _Form]:
    """The forms of texts in order of preference, numbers excepted."""
    forms = {}
    for name, (digits, form, century) in _COMPACT.items():
        pattern = rf"\d{{{digits}}}" if century else rf"(19|20)\d{{{digits}}}"
        parsed = f"CAST(epoch(try_strptime('{century}' || {text}, '{form}')) AS BIGINT)"
        length = f"length({text}) = {digits if century else digits + 2}"
        forms[name] = _Form(
            f"CASE WHEN regexp_full_match({text}, '{pattern}') THEN {parsed} END",
            length if century else f"{length} AND ({text} LIKE '19%' OR {text} LIKE '20%')",
        )
    iso = f"epoch(TRY_CAST({text} AS TIMESTAMPTZ))"
    forms[_ISO_NAME] = _Form(
        f"CASE WHEN regexp_full_match({text}, '{_ISO}') THEN {_whole(iso)} END", f"{text} LIKE '____-__-__%'"
    )
    return forms


def _number_forms(number: str) -> dict[str, _Form]:
    return {
        _SECONDS: _Form(_whole(number), "true"),
        _MILLISECONDS: _Form(_whole(f"({number} / 1000)"), "true"),
    }


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
        relation: the table that holds the column.
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
        forms = {form: _Form(_whole(f"epoch({parsed})"), "true")}
    elif kind in INTEGERS or kind in ("VARCHAR",):
        forms = _text_forms(text) | _number_forms(f"TRY_CAST({text} AS DOUBLE)")
    else:
        forms = _number_forms(f"TRY_CAST({expression} AS DOUBLE)")
    try:
        name = None
        if len(forms) > 1:
            name = _look(connection, f"{relation} WHERE rowid < {_SAMPLE_ROWS}", text, forms).chosen()
        if name is None or not _is_first(connection, relation, text, forms, name):
            whole = _look(connection, relation, text, forms)
            name = whole.chosen()
    except duckdb.Error as error:
        if not form or isinstance(error, MACHINE):
            raise
        raise DataError(f"data.timestamp_format: {form!r} is no strptime format: {reason(error)}") from None
    if name is not None:
        return Clock(name, forms[name].seconds)
    best = max(whole.read, key=lambda name: whole.read[name])
    advice = "set data.timestamp_format to their strptime form"
    if field != "data.timestamp":
        advice = "write them as ISO 8601 or epoch seconds"
    unread = example(f"({forms[best].seconds}) IS NULL AND {text} <> ''")
    raise DataError(
        f"{field}: column {column!r}: {whole.values - whole.read[best]} of {whole.values} values are no time"
        f"{' in the form ' + form if form else ''}{unread and ';' + unread}; {advice}"
    )


@dataclass(frozen=True)
class _Look:
    """How many values there are, and how many of them each form reads, in the order of the forms."""

    values: int
    read: dict[str, int]

    def chosen(self) -> str | None:
        """The first form that reads more than half of the values; of none, any form does."""
        return next((name for name, count in self.read.items() if count * 2 > self.values or not self.values), None)


def _look(connection: duckdb.DuckDBPyConnection, rows: str, text: str, forms: Mapping[str, _Form]) -> _Look:
    """Tries every form on every row."""
    read = ", ".join(f"count({form.seconds})" for form in forms.values())
    values, large, *counts = one(connection, f"SELECT {_values(text)}, {_large(text)}, {read} FROM {rows}")
    found = dict(zip(forms, counts, strict=True))
    if _SECONDS in found:
        found.pop(_SECONDS if large * 2 > values else _MILLISECONDS)
    return _Look(values, found)


def _is_first(
    connection: duckdb.DuckDBPyConnection, relation: str, text: str, forms: Mapping[str, _Form], name: str
) -> bool:
    """Whether `_look` at every row would choose the form `name`; False is also said where it only may not."""
    numbers = (_SECONDS, _MILLISECONDS)
    earlier = [forms[other] for other in list(forms)[: list(forms).index(name)] if other not in numbers]
    possible = "".join(f", count(*) FILTER ({form.possible})" for form in earlier)
    large = _large(text) if name in numbers else "0"
    values, read, above, *others = one(
        connection, f"SELECT {_values(text)}, count({forms[name].seconds}), {large}{possible} FROM {relation}"
    )
    is_kind = name not in numbers or (above * 2 > values) == (name == _MILLISECONDS)
    return bool(read * 2 > values and is_kind and all(other * 2 <= values for other in others))


def _values(text: str) -> str:
    return f"count(*) FILTER ({text} <> '')"


def _large(text: str) -> str:
    return f"count(*) FILTER (abs(TRY_CAST({text} AS DOUBLE)) >= {_MILLISECONDS_FROM})"
