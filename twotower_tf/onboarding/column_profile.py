"""Profiles the columns of a user's tables: the statistics from which roles and types are guessed."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from twotower_tf.errors import DataError
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import time_proposals, timestamps
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.values import is_nested

SEPARATORS = ("|", ";", ",")
LISTED = 24
_LABELS = ("0", "1", "0.0", "1.0", "true", "false")
_BINARY = (*_LABELS, "yes", "no", "y", "n")
ONE = ("1", "1.0", "true", "yes", "y")
_INTEGER = "-?(0|[1-9][0-9]*)"  # leading zeros are those of an id
_STRUCTURE = r"""\s*(\{\s*(["'].*:.*)?\}|\[\s*(\{\s*["'].*:.*|\[.*)?\])\s*"""
_EXACT_UP_TO = 5_000_000  # rows; beyond, distinct values are counted approximately
_RUNS = 1.05  # runs of rows of a user, at most, where users follow each other
_SORTED = 0.1  # of neighbours, at most, that are not in the order of sorted ids
_SEPARATED = 0.05  # least share of values with a separator, for it to separate tags


@dataclass(frozen=True)
class Profile:
    """Statistics of a column.

    Attributes:
        name: of the column.
        tokens: the words of its name, lower case.
        rows: number of rows of the table.
        present: number of rows with a value.
        distinct: number of distinct values.
        exact: whether `distinct` is exact.
        integers: number of values written as whole numbers, without leading zeros.
        numbers: number of values that are finite numbers.
        wholes: number of values that are whole numbers, as 3.0 or with leading zeros too.
        binary: number of values that are 0, 1, true, false, yes, no, Y or N, as 1.0 or in any letters too.
        labels: number of those that `data.label` takes: 0, 1, true and false.
        structures: number of values that are objects, or lists of objects or of lists, written as JSON.
        negative: share of the numbers that are below 0.
        low: smallest number.
        high: largest number.
        median: of the numbers.
        tail: 99th percentile of the numbers.
        length: mean number of characters.
        top: the most frequent values with their share of the values, at most `LISTED`.
        separator: between several values in one text, or "".
        elements: number of distinct values in such texts.
        plural: whether a value is a list.
        nested: whether a value is a struct, a map, or a list of these or of lists, typed or written as JSON.
    """

    name: str
    tokens: tuple[str, ...]
    rows: int
    present: int
    distinct: int
    exact: bool
    integers: int
    numbers: int
    wholes: int
    binary: int
    labels: int
    structures: int
    negative: float
    low: float
    high: float
    median: float
    tail: float
    length: float
    top: tuple[tuple[str, float], ...] = ()
    separator: str = ""
    elements: int = 0
    plural: bool = False
    nested: bool = False

    @property
    def missing(self) -> float:
        return 1 - self.present / self.rows if self.rows else 0.0

    @property
    def unique(self) -> bool:
        """Whether almost every row has a distinct value."""
        return self.present > 50 and self.distinct > 0.9 * self.present

    @property
    def listed(self) -> bool:
        """Whether `top` has every value."""
        return self.present > 0 and self.exact and self.distinct == len(self.top)

    @property
    def is_binary(self) -> bool:
        """Whether it has two values, and these are 0 and 1, false and true, or no and yes."""
        return self.present > 0 and self.binary == self.present and self.distinct == 2

    @property
    def is_fraction(self) -> bool:
        """Whether all values are numbers, and not all whole."""
        return self.numbers == self.present and self.wholes < self.present

    @property
    def ones(self) -> float:
        """The share of the values that are 1, true or yes; of a binary column."""
        return sum(share for value, share in self.top if value.lower() in ONE)

    @property
    def one(self) -> str:
        """The text of 1, true or yes; of a binary column."""
        return next((value for value, _ in self.top if value.lower() in ONE), "1")

    @property
    def plain(self) -> str:
        """The name in lower case, letters and digits only."""
        return "".join(self.tokens)


@dataclass(frozen=True)
class Moment:
    """A column read as time.

    Attributes:
        form: name of the time format.
        first: epoch seconds of the first time.
        last: epoch seconds of the last time.
        places: whether it is a position in an order rather than a calendar time.
        hours: number of distinct hours of the day.
        weekdays: number of distinct days of the week.
        seconds: SQL of a row's epoch seconds.
        strptime: `data.timestamp_format` to read it, or "" where none is needed.
        others: further formats that read every value.
    """

    form: str
    first: int
    last: int
    places: bool
    hours: int = 0
    weekdays: int = 0
    seconds: str = ""
    strptime: str = ""
    others: tuple[str, ...] = ()


@dataclass
class TableProfile:
    """A table in DuckDB, the statistics of its columns by name, and those that can be read as time."""

    table: Table
    columns: dict[str, Profile]
    moments: dict[str, Moment] = field(default_factory=dict)


def split_words(name: str) -> tuple[str, ...]:
    """Splits a column's name into words: `deviceID_v2` into device, id, v, 2."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+", name)
    return tuple(part.lower() for part in parts)


def profile_table(connection: Connection, table: Table) -> TableProfile:
    """Measures the statistics of every column of a table."""
    found = {name: _profile_column(connection, table, name) for name in table.columns}
    moments = {name: moment for name in found if (moment := _read_as_time(connection, table, found[name]))}
    return TableProfile(table, found, moments)


def _profile_column(connection: Connection, table: Table, name: str) -> Profile:
    text, kind = table.text(name), table.columns[name].kind
    number = f"TRY_CAST({text} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    exact = table.rows <= _EXACT_UP_TO
    facts = {
        "present": f"count({text})",
        "distinct": f"count(DISTINCT {text})" if exact else f"approx_count_distinct({text})",
        "integers": f"count(*) FILTER (regexp_full_match({text}, '{_INTEGER}'))",
        "numbers": f"count({finite})",
        "wholes": f"count(*) FILTER ({finite} = trunc({finite}))",
        "labels": f"count(*) FILTER (lower({text}) IN {_LABELS})",
        "structures": f"count(*) FILTER (regexp_full_match({text}, {quote_literal(_STRUCTURE)}, 's'))",
        "binary": f"count(*) FILTER (lower({text}) IN {_BINARY})",
        "negative": f"coalesce(avg(CAST({finite} < 0 AS TINYINT)), 0)",
        "low": f"coalesce(min({finite}), 0)",
        "high": f"coalesce(max({finite}), 0)",
        "median": f"coalesce({'quantile_disc' if exact else 'approx_quantile'}({finite}, 0.5), 0)",
        "tail": f"coalesce(approx_quantile({finite}, 0.99), 0)",
        "length": f"coalesce(avg(length({text})), 0)",
    }
    separated = [f"count(*) FILTER (contains({text}, {quote_literal(mark)}))" for mark in SEPARATORS]
    row = fetch_row(connection, f"SELECT {', '.join([*facts.values(), *separated])} FROM {table.name}")
    measured = dict(zip(facts, row, strict=False))
    present = measured["present"]
    top = connection.execute(
        f"SELECT {text}, count(*) FROM {table.name} WHERE {text} IS NOT NULL "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {LISTED}"
    ).fetchall()
    separator, elements = "", 0
    for mark, count in zip(SEPARATORS, row[len(facts) :], strict=True):
        if present and count > _SEPARATED * present:
            (found,) = fetch_row(
                connection,
                "SELECT count(DISTINCT part) FROM (SELECT trim(unnest(string_split("
                f"{text}, {quote_literal(mark)}))) AS part FROM {table.name}) WHERE part <> ''",
            )
            if found <= measured["distinct"]:  # fewer than distinct texts: they repeat in other combinations
                separator, elements = mark, found
                break
    return Profile(
        name=name,
        tokens=split_words(name),
        rows=table.rows,
        exact=exact,
        **measured,
        top=tuple((str(value), count / present) for value, count in top),
        separator=separator,
        elements=elements,
        plural=kind.endswith("[]"),
        nested=is_nested(kind) or measured["structures"] == present > 0,
    )


def _read_as_time(connection: Connection, table: Table, profile: Profile) -> Moment | None:
    """Reads a column as time; None where that fails."""
    column = table.columns[profile.name]
    if not profile.present or profile.plural or profile.nested or column.kind == "BOOLEAN":
        return None
    try:
        clock = timestamps.detect_format(connection, table.name, column.identifier, column.kind, column=profile.name)
    except DataError:
        return None if profile.numbers == profile.present else _read_by_format(connection, table, profile)
    moment = _measure_times(connection, table, profile, clock)
    if moment is not None and clock.form.startswith("epoch") and moment.first < timestamps.FIRST_DATE:
        moment = replace(moment, places=True)
    return moment


def _measure_times(
    connection: Connection, table: Table, profile: Profile, clock: timestamps.TimeFormat
) -> Moment | None:
    """Measures the times of a column; None where values are not times."""
    seconds = clock.seconds
    read, first, last, hours, weekdays = fetch_row(
        connection,
        f"SELECT count({seconds}), min({seconds}), max({seconds}), "
        f"count(DISTINCT floor({seconds} / {timestamps.SECONDS_PER_HOUR}.0) % 24), "
        f"count(DISTINCT floor({seconds} / {timestamps.SECONDS_PER_DAY}.0) % 7) FROM {table.name}",
    )
    if read < 0.99 * profile.present:
        return None
    return Moment(clock.form, int(first), int(last), False, int(hours), int(weekdays), seconds)


def _read_by_format(connection: Connection, table: Table, profile: Profile) -> Moment | None:
    """Reads texts by a strptime format; where several read all of them, by that of the shortest period.

    Ten days of March, read with day and month exchanged, are spread over ten months.
    """
    text = table.text(profile.name)
    found = []
    for form in time_proposals.propose_formats(connection, table.name, f"trim({text})"):
        clock = timestamps.TimeFormat(form, timestamps.strptime_micros(f"trim({text})", form))
        moment = _measure_times(connection, table, profile, clock)
        if moment is not None:
            found.append(replace(moment, strptime=form))
    found.sort(key=lambda moment: moment.last - moment.first)
    return replace(found[0], others=tuple(each.strptime for each in found[1:])) if found else None


def measure_association(connection: Connection, table: Table, cause: str, effect: str) -> float:
    """Measures how well one column predicts another, 0 to 1.

    Goodman and Kruskal's lambda (1954): the share of the errors of always guessing the most frequent value that knowing
    `cause` avoids. A missing value counts as a value. Causes that occur once, which would predict anything, are left
    out.
    """
    known, predicted = (f"coalesce({table.text(name)}, '')" for name in (cause, effect))
    right, rows, guess = fetch_row(
        connection,
        f"""
        WITH pairs AS (SELECT {known} AS cause, {predicted} AS effect, count(*) AS n FROM {table.name} GROUP BY ALL),
        causes AS (SELECT cause, max(n) AS best, sum(n) AS n FROM pairs GROUP BY cause HAVING sum(n) > 1),
        effects AS (SELECT sum(n) AS n FROM pairs SEMI JOIN causes USING (cause) GROUP BY effect)
        SELECT coalesce(sum(best), 0), coalesce(sum(n), 0), (SELECT coalesce(max(n), 0) FROM effects) FROM causes
        """,
    )
    return float(right - guess) / float(rows - guess) if rows > guess else 0.0


def measure_overlap(connection: Connection, events: Table, column: str, table: Table, key: str) -> tuple[float, float]:
    """Measures how many distinct values two columns share.

    Returns:
        the shared values as a share of the events' distinct values, and as a share of the other table's.
    """
    ids, keys = (
        f"(SELECT DISTINCT {each.text(name)} AS id FROM {each.name} WHERE {each.text(name)} IS NOT NULL)"
        for each, name in ((events, column), (table, key))
    )
    shared, total, known = fetch_row(
        connection,
        f"SELECT (SELECT count(*) FROM {ids} SEMI JOIN {keys} USING (id)), (SELECT count(*) FROM {ids}), "
        f"(SELECT count(*) FROM {keys})",
    )
    return shared / total if total else 0.0, shared / known if known else 0.0


def measure_listed(connection: Connection, table: Table, column: Profile, item: str) -> float:
    """Measures the share of a column's lists, typed or in one text, that have the row's value of `item`."""
    text, mark = table.text(column.name), column.separator or "|"
    if not (column.plural or column.separator) or column.nested:
        return 0.0
    parts = f"string_split(replace({text}, ' ', ''), {quote_literal(mark)})"
    listed = f"list_contains({parts}, replace({table.text(item)}, ' ', ''))"
    (share,) = fetch_row(connection, f"SELECT coalesce(avg(CAST({listed} AS INTEGER)), 0) FROM {table.name}")
    return float(share)


def count_pairs(connection: Connection, table: Table, one_column: str, other: str) -> float:
    """Counts the distinct pairs of two columns, as a share of the rows that have both."""
    first, second = table.text(one_column), table.text(other)
    pairs, rows = fetch_row(
        connection,
        f"SELECT count(DISTINCT ({first}, {second})), count(*) FROM {table.name} "
        f"WHERE {first} IS NOT NULL AND {second} IS NOT NULL",
    )
    return pairs / rows if rows else 0.0


def is_in_order(
    connection: Connection, table: Table, user: Profile, item: Profile, others: Collection[Profile]
) -> bool:
    """Tests whether the rows of a log without times seem to be each user's events in their order.

    The users follow each other, and their rows are sorted neither by the items' ids nor, the largest first, by a number
    such as a count of plays.
    """
    one, other = table.text(user.name), table.text(item.name)
    if item.integers == item.present:
        other = f"TRY_CAST({other} AS HUGEINT)"
    numbers = {
        f"number_{place}": f"TRY_CAST({table.text(each.name)} AS DOUBLE)"
        for place, each in enumerate(others)
        if each.numbers == each.present and each.name not in (user.name, item.name)
    }
    changes = "".join(
        f", count(*) FILTER (one = before AND {each} {sign} last_{each})" for each in numbers for sign in "<>"
    )
    before = "".join(f", {each}, lag({each}) OVER (ORDER BY place) AS last_{each}" for each in numbers)
    measured = "".join(f", {number} AS {each}" for each, number in numbers.items())
    runs, rising, pairs, *moves = fetch_row(
        connection,
        f"""
        SELECT count(*) FILTER (one IS DISTINCT FROM before), count(*) FILTER (one = before AND other > last),
               count(*) FILTER (one = before AND other <> last){changes}
        FROM (
            SELECT one, other,
                   lag(one) OVER (ORDER BY place) AS before, lag(other) OVER (ORDER BY place) AS last{before}
            FROM (SELECT {one} AS one, {other} AS other, rowid AS place{measured} FROM {table.name})
        )
        """,
    )
    if not pairs or runs > _RUNS * user.distinct or not _SORTED < rising / pairs < 1 - _SORTED:
        return False
    return not any(
        down > (1 - _SORTED) * (down + up) and down + up > 0.5 * pairs
        for down, up in zip(moves[::2], moves[1::2], strict=True)
    )


def match_names(names: Sequence[str], columns: dict[str, Profile]) -> list[str]:
    """Returns the columns whose plain names are among `names`, in the order of `names`."""
    by_plain = {profile.plain: name for name, profile in columns.items()}
    return [by_plain[name] for name in names if name in by_plain]
