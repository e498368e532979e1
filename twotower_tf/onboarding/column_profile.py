"""Profiles the columns of a user's tables: the statistics from which roles and types are guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from twotower_tf.errors import DataError
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import timestamps
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_table import Table

SEPARATORS = ("|", ";", ",")
LISTED = 24
_BINARY = ("0", "1", "0.0", "1.0", "true", "false")
ONE = ("1", "1.0", "true")
_INTEGER = "-?[0-9]+"
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
        integers: number of values written as whole numbers.
        numbers: number of values that are finite numbers.
        binary: number of values that are 0, 1, true or false, as 1.0 or in any letters too.
        low: smallest number.
        high: largest number.
        median: of the numbers.
        tail: 99th percentile of the numbers.
        length: mean number of characters.
        top: the most frequent values with their share of the values, at most `LISTED`.
        separator: between several values in one text, or "".
        elements: number of distinct values in such texts.
    """

    name: str
    tokens: tuple[str, ...]
    rows: int
    present: int
    distinct: int
    exact: bool
    integers: int
    numbers: int
    binary: int
    low: float
    high: float
    median: float
    tail: float
    length: float
    top: tuple[tuple[str, float], ...] = ()
    separator: str = ""
    elements: int = 0

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
        """Whether it has two values, and these are 0 and 1, or false and true."""
        return self.present > 0 and self.binary == self.present and self.distinct == 2

    @property
    def ones(self) -> float:
        """The share of the values that are 1 or true; of a binary column."""
        return sum(share for value, share in self.top if value.lower() in ONE)

    @property
    def one(self) -> str:
        """The text of 1 or true; of a binary column."""
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
    """

    form: str
    first: int
    last: int
    places: bool
    hours: int = 0
    weekdays: int = 0


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
    text = table.text(name)
    number = f"TRY_CAST({text} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    exact = table.rows <= _EXACT_UP_TO
    facts = {
        "present": f"count({text})",
        "distinct": f"count(DISTINCT {text})" if exact else f"approx_count_distinct({text})",
        "integers": f"count(*) FILTER (regexp_full_match({text}, '{_INTEGER}'))",
        "numbers": f"count({finite})",
        "binary": f"count(*) FILTER (lower({text}) IN {_BINARY})",
        "low": f"coalesce(min({finite}), 0)",
        "high": f"coalesce(max({finite}), 0)",
        "median": f"coalesce(approx_quantile({finite}, 0.5), 0)",
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
    )


_EARLIEST = 631_152_000  # 1990: an earlier number is not the time of an event


def _read_as_time(connection: Connection, table: Table, profile: Profile) -> Moment | None:
    """Reads a column as time; None where that fails."""
    column = table.columns[profile.name]
    if not profile.present or column.kind.endswith("[]") or column.kind == "BOOLEAN":
        return None
    try:
        clock = timestamps.detect_format(connection, table.name, column.identifier, column.kind, column=profile.name)
    except DataError:
        return None
    seconds = clock.seconds
    read, first, last, hours, weekdays = fetch_row(
        connection,
        f"SELECT count({seconds}), min({seconds}), max({seconds}), "
        f"count(DISTINCT floor({seconds} / 3600.0) % 24), count(DISTINCT floor({seconds} / 86400.0) % 7) "
        f"FROM {table.name}",
    )
    if read < 0.99 * profile.present:
        return None
    places = clock.form.startswith("epoch") and first < _EARLIEST
    return Moment(clock.form, int(first), int(last), places, int(hours), int(weekdays))


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


def count_pairs(connection: Connection, table: Table, one_column: str, other: str) -> float:
    """Counts the distinct pairs of two columns, as a share of the rows that have both."""
    first, second = table.text(one_column), table.text(other)
    pairs, rows = fetch_row(
        connection,
        f"SELECT count(DISTINCT ({first}, {second})), count(*) FROM {table.name} "
        f"WHERE {first} IS NOT NULL AND {second} IS NOT NULL",
    )
    return pairs / rows if rows else 0.0


def is_in_order(connection: Connection, table: Table, user: Profile, item: Profile) -> bool:
    """Tests whether the rows of a log without times seem to be each user's events in their order.

    The users follow each other, and a user's items are not sorted by their ids.
    """
    one, other = table.text(user.name), table.text(item.name)
    if item.integers == item.present:
        other = f"TRY_CAST({other} AS HUGEINT)"
    runs, rising, pairs = fetch_row(
        connection,
        f"""
        SELECT count(*) FILTER (one IS DISTINCT FROM before), count(*) FILTER (one = before AND other > last),
               count(*) FILTER (one = before AND other <> last)
        FROM (
            SELECT one, other, lag(one) OVER (ORDER BY place) AS before, lag(other) OVER (ORDER BY place) AS last
            FROM (SELECT {one} AS one, {other} AS other, rowid AS place FROM {table.name})
        )
        """,
    )
    return bool(pairs) and runs <= _RUNS * user.distinct and _SORTED < rising / pairs < 1 - _SORTED


def match_names(names: Sequence[str], columns: dict[str, Profile]) -> list[str]:
    """Returns the columns whose plain names are among `names`, in the order of `names`."""
    by_plain = {profile.plain: name for name, profile in columns.items()}
    return [by_plain[name] for name in names if name in by_plain]
