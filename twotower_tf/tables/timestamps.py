"""Detects the format of time columns, and returns SQL that reads them as epoch microseconds, UTC.

Events are ordered by microseconds, finer digits are cut off; features use whole seconds.

The format is decided once for the whole column, so that one odd value cannot change how the others are read: the first
format in the order below that reads more than half of the column's values.

1. `timestamp_format`, where the configuration has one (strptime; no other is tried).
2. `YYYYMMDD`, `YYYYMMDDHH`, `YYYYMMDDHHmm`, `YYYYMMDDHHmmss`: 8, 10, 12 or 14 digits that are a real date between
   1900 and 2099. Such a number could be an epoch time too (20141021 seconds is August 1970); a column in which most
   values are valid dates is read as dates.
3. `YYMMDDHH`: 8 digits that are a real date and hour of 2000 to 2099 (Avazu: 14102100 is 2014-10-21 00:00). Where 8
   digits fit both formats (20101021), the four-digit year wins.
4. ISO 8601: `2014-10-21`, `2014-10-21T08:30:00Z`, `2014-10-21 08:30:00.5+02:00`; without an offset it is UTC.
5. Numbers: epoch milliseconds where more than half of them are at least 1e11 in size (1973 as milliseconds, the year
   5138 as seconds), microseconds where they are at least 1e14, nanoseconds where they are at least 1e17, else epoch
   seconds. Small and negative integers are seconds: a log without times may give the place in the user's order. In a
   column of a finer unit smaller numbers are invalid: seconds among milliseconds would be times in January 1970.

The format is detected on the column's first rows, and confirmed on all of them: it reads more than half, and too few
values could be of an earlier format. Where that fails, every format is tried on every row.

Columns that already have a time type are read as such (no offset: UTC). A value that the format does not read, or that
is outside the years 1 to 9999, is invalid: its row is quarantined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from twotower_tf.errors import DataError
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import time_proposals
from twotower_tf.tables.duckdb_engine import RESOURCE_ERRORS, fetch_row, first_line
from twotower_tf.tables.values import INTEGERS, text_sql

ISO_NAME = "ISO 8601"
SECONDS = "epoch seconds"
TYPED = "a time"  # the name of the form of columns with a time type
UNITS = {SECONDS: 1, "epoch milliseconds": 1000, "epoch microseconds": 1_000_000, "epoch nanoseconds": 1_000_000_000}
EARLIEST, LATEST = -62135596800, 253402300799  # the years 1 and 9999
LARGE = 10**11  # numbers from here on, times 1000 for each finer unit, are in a finer unit than seconds
MICROSECONDS = 1_000_000  # of a second
SECONDS_PER_HOUR, SECONDS_PER_DAY = 3_600, 86_400
FIRST_DATE = 631_152_000  # 1990: numbers before it are positions in an order rather than times of events

_ISO = (
    r"\d{4}-\d{2}-\d{2}"
    r"([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?)?"
)

# name: (digits after the century, strptime format, the century where the text has none)
COMPACT: dict[str, tuple[int, str, str]] = {
    "YYYYMMDD": (6, "%Y%m%d", ""),
    "YYYYMMDDHH": (8, "%Y%m%d%H", ""),
    "YYYYMMDDHHmm": (10, "%Y%m%d%H%M", ""),
    "YYYYMMDDHHmmss": (12, "%Y%m%d%H%M%S", ""),
    "YYMMDDHH": (8, "%Y%m%d%H", "20"),
}
_SAMPLE_ROWS = 10_000


@dataclass(frozen=True)
class TimeFormat:
    """The format of a time column.

    Attributes:
        form: name of the format, for messages and the manifest.
        micros: SQL for epoch microseconds (BIGINT) of the column's expression; NULL for an invalid time.
    """

    form: str
    micros: str

    @property
    def seconds(self) -> str:
        """Returns SQL for whole epoch seconds (BIGINT)."""
        return seconds_sql(self.micros)


def seconds_sql(micros: str) -> str:
    """Returns SQL of whole seconds, rounded down, of epoch microseconds (BIGINT)."""
    return _floor_divide(micros, MICROSECONDS)


def _floor_divide(number: str, by: int) -> str:
    """Returns SQL of the quotient of a BIGINT, rounded down; DuckDB's and Spark's own is rounded toward zero."""
    return f"(({number}) // {by} - CAST(({number}) % {by} < 0 AS BIGINT))"


def _within_years(micros: str) -> str:
    """Returns SQL of microseconds, NULL outside the years 1 to 9999."""
    first, last = EARLIEST * MICROSECONDS, (LATEST + 1) * MICROSECONDS - 1
    return f"CASE WHEN {micros} BETWEEN {first} AND {last} THEN {micros} END"


@dataclass(frozen=True)
class _Form:
    """SQL of a column's microseconds, and cheap SQL that holds for every value that is read so."""

    micros: str
    possible: str


def typed_micros(expression: str, kind: str) -> str:
    """Returns SQL for the microseconds of a column with a time type; "" where `kind`, DuckDB's type, is none."""
    if not (kind.startswith("TIMESTAMP") or kind == "DATE"):
        return ""
    if kind.startswith(("TIMESTAMP_NS", "TIMESTAMPTZ_NS")):
        return _within_years(_floor_divide(f"epoch_ns({expression})", 1000))
    return _within_years(f"epoch_us({expression})")


def strptime_micros(text: str, form: str) -> str:
    """Returns SQL for the microseconds of texts in a strptime format."""
    return _within_years(f"epoch_us(try_strptime({text}, {quote_literal(form)}))")


def iso_micros(text: str) -> str:
    """Returns SQL for the microseconds of ISO 8601 texts."""
    micros = _within_years(f"epoch_us(TRY_CAST({text} AS TIMESTAMPTZ))")
    return f"CASE WHEN regexp_full_match({text}, '{_ISO}') THEN {micros} END"


def compact_micros(text: str, name: str) -> str:
    """Returns SQL for the microseconds of texts in one of the forms made of digits only."""
    digits, form, century = COMPACT[name]
    pattern = rf"\d{{{digits}}}" if century else rf"(19|20)\d{{{digits}}}"
    micros = f"epoch_us(try_strptime('{century}' || {text}, '{form}'))"
    return f"CASE WHEN regexp_full_match({text}, '{pattern}') THEN {micros} END"


def epoch_micros(number: str, name: str, first: int = EARLIEST, last: int = LATEST) -> str:
    """Returns SQL for the microseconds of numbers, or texts of numbers, in one of `UNITS`.

    Args:
        number: SQL of the numbers.
        name: of the unit.
        first: the earliest second; earlier ones are NULL.
        last: the latest second.
    """
    per_second = UNITS[name]
    double = f"TRY_CAST({number} AS DOUBLE)"
    if per_second < MICROSECONDS:  # a double holds the whole units; the fraction is rounded, never up to the next unit
        finer = MICROSECONDS // per_second
        fraction = f"least({finer - 1}, CAST(round(({double} - floor({double})) * {finer}) AS BIGINT))"
        micros = f"CAST(floor({double}) AS BIGINT) * {finer} + {fraction}"
    else:
        micros = f"TRY_CAST({number} AS BIGINT)"
        if per_second > MICROSECONDS:
            micros = _floor_divide(micros, per_second // MICROSECONDS)
    low, high = first * per_second, (last + 1) * per_second
    return f"CASE WHEN {double} >= {low} AND {double} < {high} THEN {micros} END"


def _list_text_forms(text: str) -> dict[str, _Form]:
    """Returns the forms of texts in order of preference, numbers excepted."""
    forms = {}
    for name, (digits, _, century) in COMPACT.items():
        length = f"length({text}) = {digits if century else digits + 2}"
        possible = length if century else f"{length} AND ({text} LIKE '19%' OR {text} LIKE '20%')"
        forms[name] = _Form(compact_micros(text, name), possible)
    return forms | {ISO_NAME: _Form(iso_micros(text), f"{text} LIKE '____-__-__%'")}


def _list_number_forms(number: str) -> dict[str, _Form]:
    return {name: _Form(_of_unit(number, name), "true") for name in UNITS}


def _of_unit(number: str, name: str) -> str:
    """Returns SQL for the microseconds of numbers in a unit; NULL for one so small that it is of a coarser unit."""
    micros = epoch_micros(number, name)
    per_second = UNITS[name]
    if per_second == 1:
        return micros
    return f"CASE WHEN abs(TRY_CAST({number} AS DOUBLE)) >= {LARGE * per_second // 1000} THEN {micros} END"


def detect_format(
    connection: Connection,
    relation: str,
    expression: str,
    kind: str,
    *,
    column: str,
    form: str = "",
    field: str = "data.timestamp",
    example: Callable[[str], str] = lambda condition: "",
    sample: bool = False,
) -> TimeFormat:
    """Detects the format of a column.

    Args:
        connection: where `relation` lives.
        relation: the table that holds the column.
        expression: SQL of the column.
        kind: its DuckDB type.
        column: its name, for messages.
        form: `DataConfig.timestamp_format`.
        field: the configuration's field that names the column, for messages.
        example: gives, for an SQL condition on the column, " e.g. VALUE at FILE:LINE" of a row that meets it.
        sample: whether a given `form` that reads the first rows needs not be tried on the others.

    Raises:
        DataError: where no format reads more than half of the values, or `form` is not a strptime format.
    """
    if of_type := typed_micros(expression, kind):
        return TimeFormat(TYPED, of_type)
    text = f"trim({text_sql(expression, kind)})"
    if form:
        forms = {form: _Form(strptime_micros(text, form), "true")}
    elif kind in INTEGERS or kind in ("VARCHAR",):
        forms = _list_text_forms(text) | _list_number_forms(text)
    else:
        forms = _list_number_forms(expression)
    try:
        name, given = None, form if sample else ""
        if given or len(forms) > 1:
            name = _try_forms(connection, f"{relation} WHERE rowid < {_SAMPLE_ROWS}", text, forms).chosen()
        if name is None or (name != given and not _is_first(connection, relation, text, forms, name)):
            whole = _try_forms(connection, relation, text, forms)
            name = whole.chosen()
    except duckdb.Error as error:
        if not form or isinstance(error, RESOURCE_ERRORS):
            raise
        raise DataError(f"data.timestamp_format: invalid strptime format {form!r}: {first_line(error)}") from None
    if name is not None:
        return TimeFormat(name, forms[name].micros)
    best = max(whole.read, key=lambda name: whole.read[name])
    advice = "set data.timestamp_format to their strptime format"
    if proposed := time_proposals.propose_formats(connection, relation, text):
        advice = f"set data.timestamp_format to {' or '.join(map(repr, proposed[:2]))}"
    if field != "data.timestamp":
        advice = "write them as ISO 8601 or epoch seconds"
    unread = example(f"({forms[best].micros}) IS NULL AND {text} <> ''")
    raise DataError(
        f"{field}: column {column!r}: {whole.values - whole.read[best]} of {whole.values} values are not times"
        f"{' in the format ' + form if form else ''}{unread and ';' + unread}; {advice}"
    )


@dataclass(frozen=True)
class _Look:
    """How many values there are, and how many of them each form reads, in the order of the forms."""

    values: int
    read: dict[str, int]

    def chosen(self) -> str | None:
        """Returns the first form that reads more than half of the values; of none, any form does."""
        return next((name for name, count in self.read.items() if count * 2 > self.values or not self.values), None)


def _try_forms(connection: Connection, rows: str, text: str, forms: Mapping[str, _Form]) -> _Look:
    """Tries every form on every row."""
    read = [f"count({form.micros})" for form in forms.values()]
    large = _count_large(text) if SECONDS in forms else []
    counts = fetch_row(connection, f"SELECT {', '.join([_count_values(text), *large, *read])} FROM {rows}")
    values, sizes, counts = counts[0], counts[1 : 1 + len(large)], counts[1 + len(large) :]
    unit = _choose_unit(values, sizes) if large else ""
    found = {name: n for name, n in zip(forms, counts, strict=True) if name == unit or name not in UNITS}
    return _Look(values, found)


def _is_first(connection: Connection, relation: str, text: str, forms: Mapping[str, _Form], name: str) -> bool:
    """Returns whether `_try_forms` at every row chooses the form `name`; False where it only may not."""
    earlier = [forms[other] for other in list(forms)[: list(forms).index(name)] if other not in UNITS]
    possible = [f"count(*) FILTER ({form.possible})" for form in earlier]
    large = _count_large(text) if name in UNITS else []
    counted = ", ".join([_count_values(text), f"count({forms[name].micros})", *possible, *large])
    values, read, *counts = fetch_row(connection, f"SELECT {counted} FROM {relation}")
    others, sizes = counts[: len(earlier)], counts[len(earlier) :]
    is_unit = name not in UNITS or _choose_unit(values, sizes) == name
    return bool(read * 2 > values and is_unit and all(other * 2 <= values for other in others))


def _count_values(text: str) -> str:
    return f"count(*) FILTER ({text} <> '')"


def _count_large(text: str) -> list[str]:
    """Lists SQL of the counts of numbers that are large enough for each unit finer than seconds."""
    size = f"abs(TRY_CAST({text} AS DOUBLE))"
    return [f"count(*) FILTER ({size} >= {LARGE * per_second // 1000})" for per_second in [*UNITS.values()][1:]]


def _choose_unit(values: int, large: Sequence[int]) -> str:
    """Returns the finest unit that more than half of the values are large enough for."""
    fitting = [name for name, count in zip([*UNITS][1:], large, strict=True) if count * 2 > values]
    return fitting[-1] if fitting else SECONDS
