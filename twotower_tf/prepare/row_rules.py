"""Validates the rows of the log: each is used, excluded by rule, or quarantined with a reason.

A row is checked in this order: ids, time, label, split, then `exclude`, then the weight. The first fault is the reason.
A malformed row is quarantined even where `exclude` would drop it; a dropped row needs no weight. Timestamps more than a
day in the future are rejected: they would become the latest event of their user, and the last of the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from twotower_tf.characters import LINE_BREAKING
from twotower_tf.config import DateSplit, ExperimentConfig, GivenSplit, LeaveLastOut, TimeSplit
from twotower_tf.errors import DataError
from twotower_tf.prepare import date_split
from twotower_tf.prepare.schema import Inputs
from twotower_tf.prepare.user_sql import UserExpressions
from twotower_tf.sql import Connection, describe_value, quote_literal
from twotower_tf.tables import quarantine, timestamps
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.timestamps import TimeFormat

T = TypeVar("T")


def id_faults_sql(kind: str, column: str, text: str) -> str:
    """Returns SQL branches of a CASE that give the reason why an id is invalid."""
    return (
        f"WHEN {text} IS NULL THEN {quote_literal(f'no {kind} id: column {column!r} is empty')} "
        f"WHEN regexp_matches({text}, {quote_literal(LINE_BREAKING)}) "
        f"THEN {quote_literal(f'{kind} id with a tab, line end or NUL in column {column!r}')} "
    )


class RowRules:
    """Rules by which the rows of a log are validated, read off its columns.

    Attributes:
        faults: errors, one line each: columns without usable labels, times that cannot be read, unusable expressions.
            Rows can be validated only where there are none.
        time_form: name of the log's time format; "" in a log without times.
    """

    def __init__(
        self, connection: Connection, config: ExperimentConfig, inputs: Inputs, *, sample: bool = False
    ) -> None:
        """Reads the rules off the columns.

        With `sample`, a given time format is tried on the first rows only; `create_validated_events` tries it on all of
        them where it may not be that of most times.
        """
        data, table = config.data, inputs.events
        self.faults = list(find_number_faults(connection, inputs))
        self._user, self._item = table.text(data.user_id), table.text(data.item_id)
        self._reasons = id_faults_sql("user", data.user_id, self._user)
        self._reasons += id_faults_sql("item", data.item_id, self._item)
        clock = self._add_rule(lambda: _read_times(connection, config, table, sample), None) if data.timestamp else None
        self.time_form = clock.form if clock else ""
        self._ts = "CAST(NULL AS BIGINT)"
        self._looks_again = sample and clock is not None
        self._config, self._table = config, table
        if clock:
            self._ts = clock.micros
        elif data.ordered:
            self._ts = f"CAST(rowid * {timestamps.MICROSECONDS} AS BIGINT)"
        self._label, self._given, self._outside = "CAST(1 AS TINYINT)", "CAST(NULL AS VARCHAR)", "false"
        if data.label:
            self._label = self._add_rule(lambda: _read_labels(connection, table, data.label), "")
        split = data.split
        if isinstance(split, GivenSplit):
            self._given = self._add_rule(lambda: _read_given_split(connection, table, split.column), "")
        elif isinstance(split, DateSplit) and (clock or not data.timestamp):
            self._given = self._add_rule(
                lambda: _read_days(connection, split, table, clock.seconds if clock else ""), ""
            )
            self._outside = "__given IS NULL"
        self._expressions = UserExpressions.of(connection, data, table)
        self.faults += self._expressions.faults(connection)

    def _add_rule(self, rule: Callable[[], tuple[T, str]], unusable: T) -> T:
        """Reads one column's rule: its value, and the reasons of malformed rows, which are kept."""
        try:
            value, wrong = rule()
        except DataError as error:
            self.faults.append(str(error))
            return unusable
        self._reasons += wrong
        return value

    def create_validated_events(self, connection: Connection) -> None:
        """Creates `validated_events`, one row per record of the log.

        Its columns: place, user_id, item_id, ts (epoch microseconds; the place as seconds where it is the order),
        label, given (the split), reason (NULL: well-formed), excluded, and `inputs.keys`.

        Raises:
            DataError: where more than half of the times cannot be read.
        """
        expressions = self._expressions
        dropped = f"({self._outside} OR {expressions.holds('exclude')})"
        reason = "__reason"
        if expressions.data.weight:
            reason = (
                f"CASE WHEN __reason IS NOT NULL THEN __reason WHEN {dropped} THEN NULL "
                f"WHEN ({expressions.weight}) IS NULL THEN {expressions.wrong_weight} END"
            )
        positive = f"(__label = 1 AND {expressions.holds('positive', 'true')})"
        keys = expressions.key_columns(f"CAST({positive} AS INTEGER)")
        connection.execute(
            f"""
            CREATE TABLE validated_events AS
            SELECT __place AS place, __user AS user_id, __item AS item_id, __ts AS ts,
                   CAST(CASE WHEN {positive} THEN 1 ELSE 0 END AS TINYINT) AS label,
                   __given AS given, {reason} AS reason, __reason IS NULL AND {dropped} AS excluded{keys}
            FROM (
                SELECT rowid AS __place, {self._user} AS __user, {self._item} AS __item, {self._ts} AS __ts,
                       {self._label} AS __label, {self._given} AS __given,
                       CASE {self._reasons} END AS __reason{expressions.raw}{expressions.named}
                FROM events
            )
            """
        )
        counts = "SELECT count(reason), count(CASE WHEN reason IS NULL THEN ts END) FROM validated_events"
        if self._looks_again:
            malformed, timed = fetch_row(connection, counts)
            if malformed >= timed:  # else most times are read
                _detect_times(connection, self._config, self._table)


def fetch_rejected(connection: Connection) -> list[tuple[int, str]]:
    """Returns place and reason of the malformed rows in `validated_events`."""
    query = "SELECT place, reason FROM validated_events WHERE reason IS NOT NULL ORDER BY place"
    rejected: list[tuple[int, str]] = connection.execute(query).fetchall()
    return rejected


def account_rows(connection: Connection, config: ExperimentConfig, inputs: Inputs, quarantined: int) -> dict[str, Any]:
    """Counts the rows of the log in `validated_events`: read = used + excluded + quarantined.

    Raises:
        DataError: where none is used.
    """
    by_days = "given IS NULL" if isinstance(config.data.split, DateSplit) else "false"
    used, outside, excluded = fetch_row(
        connection,
        f"SELECT count(*) FILTER (reason IS NULL AND NOT excluded), count(*) FILTER (excluded AND {by_days}), "
        f"count(*) FILTER (excluded AND NOT ({by_days})) FROM validated_events",
    )
    if not used:
        outside_text = f"{outside} {date_split.EXCLUDED}, " if outside else ""
        raise DataError(
            f"data.events: {inputs.events.sources[0].name}: no row can be used: {excluded} excluded by data.exclude, "
            f"{outside_text}{quarantined} malformed"
        )
    return {
        "read": inputs.events.rows + len(inputs.events.malformed),
        "used": used,
        "excluded": {reason: n for reason, n in (("exclude", excluded), (date_split.EXCLUDED, outside)) if n},
        "quarantined": quarantined,
    }


def find_number_faults(connection: Connection, inputs: Inputs) -> Iterator[str]:
    """Yields an error of every number column of which most values are not numbers, with an example.

    A few others count as missing, and their rows are kept.
    """
    groups = [
        ("user", inputs.events, inputs.user_from_events),
        ("user", inputs.users, inputs.user_from_table),
        ("item", inputs.events, inputs.item_from_events),
        ("item", inputs.items, inputs.item_from_table),
    ]
    for side, table, columns in groups:
        numbers = [column for column in columns if column.kind == "number"]
        if table is None or not numbers:
            continue
        values = [(table.text(column.name), column.sql(table.columns[column.name])) for column in numbers]
        counts = fetch_row(
            connection, f"SELECT {', '.join(f'count({t}), count({v})' for t, v in values)} FROM {table.name}"
        )
        for column, (text, value), present, usable in zip(numbers, values, counts[::2], counts[1::2], strict=True):
            if usable * 2 < present:
                wrong = f"{text} IS NOT NULL AND ({value}) IS NULL"
                yield (
                    f"{side}_features: column {column.name!r}: {present - usable} of {present} values are not finite "
                    f"numbers;{quarantine.format_example(connection, table, column.name, wrong)}; "
                    "use Hash for categories"
                )


def _detect_times(
    connection: Connection, config: ExperimentConfig, table: Table, *, sample: bool = False
) -> TimeFormat:
    """Detects the log's time format; with `sample`, one that is given is tried on the first rows only."""
    name = config.data.timestamp
    column = table.columns[name]
    return timestamps.detect_format(
        connection,
        table.name,
        column.identifier,
        column.kind,
        column=name,
        form=config.data.timestamp_format,
        example=lambda condition: quarantine.format_example(connection, table, name, condition),
        sample=sample,
    )


def _read_times(connection: Connection, config: ExperimentConfig, table: Table, sample: bool) -> tuple[TimeFormat, str]:
    """Detects the log's time format; returns it and SQL branches of a CASE with the reasons of invalid times."""
    name = config.data.timestamp
    clock = _detect_times(connection, config, table, sample=sample)
    text = table.text(name)
    newest = find_latest_time() * timestamps.MICROSECONDS
    other = describe_value("time", text, f"is not {clock.form}")
    late = describe_value("time", text, "lies in the future")
    wrong = (
        f"WHEN {text} IS NOT NULL AND {clock.micros} IS NULL THEN {other} WHEN {clock.micros} > {newest} THEN {late} "
    )
    if isinstance(config.data.split, TimeSplit | LeaveLastOut | DateSplit):
        wrong += f"WHEN {text} IS NULL THEN {quote_literal(f'no time: column {name!r} is empty')} "
    return clock, wrong


def find_latest_time() -> int:
    """Returns the latest valid time of an event: a day after now, for clocks and calendars that are ahead."""
    return int(time.time()) + timestamps.SECONDS_PER_DAY


def _read_days(connection: Connection, split: DateSplit, table: Table, seconds: str) -> tuple[str, str]:
    """Returns SQL of a row's split by its day, and of invalid days; `seconds` is "" in a log without times."""
    if not seconds and date_split.PARTITION not in table.columns:
        raise DataError(
            f"data.split: DateSplit needs the event's time, or directories dt=YYYYMMDD/; "
            f"{table.sources[0].name} has neither; name data.timestamp"
        )
    wrong = ""
    if seconds:
        day = date_split.time_day_sql(f"({seconds})")
        valid = f"{seconds} <= {find_latest_time()}"
        (newest,) = fetch_row(connection, f"SELECT max({seconds}) FILTER ({valid}) FROM {table.name}")
    else:
        text = table.text(date_split.PARTITION)
        day = date_split.partition_day_sql(text)
        wrong = f"WHEN ({day}) IS NULL THEN coalesce({describe_value('dt', text, 'is not YYYYMMDD')}, 'no day: no dt') "
        (last,) = fetch_row(connection, f"SELECT max({day}) FROM {table.name}")
        newest = None if last is None else last * timestamps.SECONDS_PER_DAY
    window = date_split.find_window(split, table.sources, newest)
    if window is None:
        raise DataError(
            "data.split: no event has a day; name the column of the events' times in data.timestamp, or use "
            "RandomSplit()"
        )
    return window.sql(f"({day})"), wrong


def _read_labels(connection: Connection, table: Table, name: str) -> tuple[str, str]:
    text = table.text(name)
    label = (  # the usual texts first: the others take three times as long
        f"CASE WHEN {text} = '0' THEN 0 WHEN {text} = '1' THEN 1 "
        f"WHEN lower({text}) = 'true' THEN 1 WHEN lower({text}) = 'false' THEN 0 "
        f"WHEN TRY_CAST({text} AS DOUBLE) IN (0, 1) THEN CAST(TRY_CAST({text} AS DOUBLE) AS TINYINT) END"
    )
    _require_most(connection, table, f"({label}) IS NOT NULL", name, "data.label", "labels are not 0 or 1")
    return label, f"WHEN ({label}) IS NULL THEN coalesce({describe_value('label', text, 'is not 0 or 1')}, 'no label') "


def _read_given_split(connection: Connection, table: Table, name: str) -> tuple[str, str]:
    text = table.text(name)
    known = f"coalesce({text} IN ('train', 'valid', 'test'), false)"
    _require_most(connection, table, known, name, "data.split", "values are not train, valid or test")
    wrong = f"coalesce({describe_value('split', text, 'is not train, valid or test')}, 'no split')"
    return text, f"WHEN NOT {known} THEN {wrong} "


def _require_most(connection: Connection, table: Table, usable: str, name: str, field: str, fault: str) -> None:
    """Checks that at least half of a table's rows, and one, have a usable value in a column."""
    total, good = fetch_row(connection, f"SELECT count(*), count(*) FILTER ({usable}) FROM {table.name}")
    if good * 2 < total or not good:
        example = quarantine.format_example(connection, table, name, f"NOT ({usable})")
        raise DataError(f"{field}: column {name!r}: {total - good} of {total} {fault};{example}")
