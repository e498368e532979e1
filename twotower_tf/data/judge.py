"""Every row of the log is used, excluded by rule, or quarantined: which, and why.

A row is judged in this order: ids, time, label, split, then `exclude`. The first fault is the reason, and a malformed
row is quarantined even where `exclude` would drop it. A time more than a day after now is none: it would be the newest
of its user, and the last of the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import duckdb

from twotower_tf.config import DateSplit, ExperimentConfig, GivenSplit, LeaveLastOut, TimeSplit
from twotower_tf.data import days, quarantine, roles, timestamps
from twotower_tf.data.engine import one, reason
from twotower_tf.data.roles import Inputs
from twotower_tf.data.tables import Table
from twotower_tf.data.values import literal, quoted, text_sql
from twotower_tf.errors import DataError

SPLITS = ("train", "valid", "test")
_NUMBER = r"-?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?"
_CONTROL = r"[\t\n\r\x00]"


def text_of(table: Table, name: str, alias: str = "") -> str:
    """SQL of a column's canonical text; NULL where there is no value."""
    column = table.columns[name]
    return text_sql(f"{alias}.{column.identifier}" if alias else column.identifier, column.kind)


def unusable_id(kind: str, column: str, text: str) -> str:
    """SQL branches of a CASE that name what is wrong with an id."""
    return (
        f"WHEN {text} IS NULL THEN {literal(f'no {kind} id: column {column!r} is empty')} "
        f"WHEN regexp_matches({text}, '{_CONTROL}') "
        f"THEN {literal(f'{kind} id with a tab, line end or NUL in column {column!r}')} "
    )


def judge(connection: duckdb.DuckDBPyConnection, config: ExperimentConfig, inputs: Inputs) -> None:
    """Creates `judged`: place, user_id, item_id, ts, label, given, reason (NULL: well-formed), excluded.

    Raises:
        DataError: for a label column without usable labels, times that cannot be read, or an unusable predicate.
    """
    data, table = config.data, inputs.events
    user, item = text_of(table, data.user_id), text_of(table, data.item_id)
    reasons = unusable_id("user", data.user_id, user) + unusable_id("item", data.item_id, item)
    ts = "CAST(NULL AS BIGINT)"
    if data.timestamp:
        ts, wrong = _time(connection, config, table)
        reasons += wrong
    label = "CAST(1 AS TINYINT)"
    if data.label:
        label, wrong = _label(connection, table, data.label)
        reasons += wrong
    given = "CAST(NULL AS VARCHAR)"
    outside = "false"
    if isinstance(data.split, GivenSplit):
        given, wrong = _given(connection, table, data.split.column)
        reasons += wrong
    elif isinstance(data.split, DateSplit):
        given, wrong = _days(connection, data.split, table, ts if data.timestamp else "")
        reasons += wrong
        outside = "__given IS NULL"
    named = _mentioned(connection, config, table)
    for field, predicate in (("data.positive", data.positive), ("data.exclude", data.exclude)):
        _check_predicate(connection, named, field, predicate)
    positive = f"coalesce(CAST(({data.positive}) AS BOOLEAN), false)" if data.positive else "true"
    excluded = f"coalesce(CAST(({data.exclude}) AS BOOLEAN), false)" if data.exclude else "false"
    connection.execute(
        f"""
        CREATE TABLE judged AS
        SELECT __place AS place, __user AS user_id, __item AS item_id, __ts AS ts,
               CAST(CASE WHEN __label = 1 AND {positive} THEN 1 ELSE 0 END AS TINYINT) AS label,
               __given AS given, __reason AS reason, __reason IS NULL AND ({outside} OR {excluded}) AS excluded
        FROM (
            SELECT rowid AS __place, {user} AS __user, {item} AS __item, {ts} AS __ts, {label} AS __label,
                   {given} AS __given, CASE {reasons} END AS __reason{named}
            FROM events
        )
        """
    )


def _mentioned(connection: duckdb.DuckDBPyConnection, config: ExperimentConfig, table: Table) -> str:
    """SQL of the columns that the predicates name, typed by their values: `, EXPRESSION AS NAME` each."""
    names = roles.mentioned(f"{config.data.positive} {config.data.exclude}", table.columns)
    columns = typed(connection, table, sorted(names))
    return "".join(f", {expression} AS {quoted(name)}" for name, expression in columns.items())


def faults(connection: duckdb.DuckDBPyConnection, config: ExperimentConfig, inputs: Inputs) -> Iterator[str]:
    """Everything for which `judge` or `check_numbers` would refuse the tables, one line each."""
    data, table = config.data, inputs.events
    seconds = ""

    def read_time() -> None:
        nonlocal seconds
        seconds, _ = _time(connection, config, table)

    def read_days(split: DateSplit) -> None:
        if seconds or not data.timestamp:
            _days(connection, split, table, seconds)

    checks: list[Callable[[], object]] = [lambda: check_numbers(connection, inputs)]
    if data.timestamp:
        checks.append(read_time)
    if data.label:
        checks.append(lambda: _label(connection, table, data.label))
    split = data.split
    if isinstance(split, GivenSplit):
        checks.append(lambda: _given(connection, table, split.column))
    elif isinstance(split, DateSplit):
        checks.append(lambda: read_days(split))
    named = _mentioned(connection, config, table)
    checks.append(lambda: _check_predicate(connection, named, "data.positive", data.positive))
    checks.append(lambda: _check_predicate(connection, named, "data.exclude", data.exclude))
    for check in checks:
        try:
            check()
        except DataError as error:
            yield str(error)


def check_numbers(connection: duckdb.DuckDBPyConnection, inputs: Inputs) -> None:
    """Refuses a column of numbers in which most values are none; a few are no value, and their rows are kept.

    Raises:
        DataError: naming the column, with an example.
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
        values = [(text_of(table, column.name), column.sql(table.columns[column.name])) for column in numbers]
        counts = one(connection, f"SELECT {', '.join(f'count({t}), count({v})' for t, v in values)} FROM {table.name}")
        for column, (text, value), present, usable in zip(numbers, values, counts[::2], counts[1::2], strict=True):
            if usable * 2 < present:
                example = _example(connection, table, column.name, f"{text} IS NOT NULL AND ({value}) IS NULL")
                raise DataError(
                    f"{side}_features: column {column.name!r}: {present - usable} of {present} values are no finite "
                    f"number;{example}; use Hash for categories"
                )


def _example(connection: duckdb.DuckDBPyConnection, table: Table, column: str, condition: str) -> str:
    """The first row that meets a condition, as text: ` e.g. 'VALUE' at FILE:LINE`."""
    expression = table.columns[column].identifier
    found = connection.execute(
        f"SELECT rowid, CAST({expression} AS VARCHAR) FROM {table.name} WHERE {condition} ORDER BY rowid LIMIT 1"
    ).fetchall()
    return "".join(f" e.g. {value!r} at {quarantine.where(connection, table, place)}" for place, value in found)


def _time(connection: duckdb.DuckDBPyConnection, config: ExperimentConfig, table: Table) -> tuple[str, str]:
    name = config.data.timestamp
    column = table.columns[name]
    clock = timestamps.choose(
        connection,
        table.name,
        column.identifier,
        column.kind,
        column=name,
        form=config.data.timestamp_format,
        example=lambda condition: _example(connection, table, name, condition),
    )
    text = text_of(table, name)
    wrong = (
        f"WHEN {text} IS NOT NULL AND {clock.seconds} IS NULL THEN 'time ''' || {text} || ''' is not {clock.form}' "
        f"WHEN {clock.seconds} > {_newest()} THEN 'time ''' || {text} || ''' lies in the future' "
    )
    if isinstance(config.data.split, TimeSplit | LeaveLastOut | DateSplit):
        wrong += f"WHEN {text} IS NULL THEN {literal(f'no time: column {name!r} is empty')} "
    return clock.seconds, wrong


def _newest() -> int:
    """The latest time that an event can have: now, and a day for clocks and calendars that are ahead."""
    return int(time.time()) + days.SECONDS


def _days(connection: duckdb.DuckDBPyConnection, split: DateSplit, table: Table, seconds: str) -> tuple[str, str]:
    """SQL of a row's split by its day, and of what is wrong with the day; `seconds` is "" in a log without times."""
    if not seconds and days.PARTITION not in table.columns:
        raise DataError(
            f"data.split: DateSplit needs the event's time, or directories dt=YYYYMMDD/; "
            f"{table.sources[0].name} has neither; name data.timestamp"
        )
    wrong = ""
    if seconds:
        day = days.of_time(f"({seconds})")
        (newest,) = one(connection, f"SELECT max({seconds}) FILTER ({seconds} <= {_newest()}) FROM {table.name}")
    else:
        text = text_of(table, days.PARTITION)
        day = days.of_partition(text)
        wrong = f"WHEN ({day}) IS NULL THEN coalesce('dt ''' || {text} || ''' is not YYYYMMDD', 'no day: no dt') "
        (last,) = one(connection, f"SELECT max({day}) FROM {table.name}")
        newest = None if last is None else last * days.SECONDS
    window = days.window(split, table.sources, newest)
    if window is None:
        raise DataError("data.split: no event has a day")
    return window.sql(f"({day})"), wrong


def _label(connection: duckdb.DuckDBPyConnection, table: Table, name: str) -> tuple[str, str]:
    text = text_of(table, name)
    label = (
        f"CASE WHEN {text} = 'true' THEN 1 WHEN {text} = 'false' THEN 0 "
        f"WHEN TRY_CAST({text} AS DOUBLE) IN (0, 1) THEN CAST(TRY_CAST({text} AS DOUBLE) AS TINYINT) END"
    )
    total, usable = one(connection, f"SELECT count(*), count({label}) FROM {table.name}")
    if usable * 2 < total or not usable:
        example = _example(connection, table, name, f"({label}) IS NULL")
        raise DataError(f"data.label: column {name!r}: {total - usable} of {total} labels are not 0 or 1;{example}")
    return label, f"WHEN ({label}) IS NULL THEN coalesce('label ''' || {text} || ''' is not 0 or 1', 'no label') "


def _given(connection: duckdb.DuckDBPyConnection, table: Table, name: str) -> tuple[str, str]:
    text = text_of(table, name)
    known = f"coalesce({text} IN ('train', 'valid', 'test'), false)"
    total, usable = one(connection, f"SELECT count(*), count(*) FILTER ({known}) FROM {table.name}")
    if usable * 2 < total or not usable:
        example = _example(connection, table, name, f"NOT {known}")
        raise DataError(
            f"data.split: column {name!r}: {total - usable} of {total} values are not train, valid or test;{example}"
        )
    return (
        text,
        f"WHEN NOT {known} THEN coalesce('split ''' || {text} || ''' is not train, valid or test', 'no split') ",
    )


def typed(connection: duckdb.DuckDBPyConnection, table: Table, names: list[str], alias: str = "") -> dict[str, str]:
    """SQL of columns with the type that all of their values have; for people's predicates over text tables.

    A text column is BIGINT where every value is an integer in its plain form (no leading zero or sign +), DOUBLE where
    every value is a number, and text otherwise.
    """
    texts = [name for name in names if table.columns[name].kind == "VARCHAR"]
    prefix = f"{alias}." if alias else ""
    found = {name: prefix + table.columns[name].identifier for name in names}
    if not texts:
        return found
    counts = []
    for name in texts:
        text = text_of(table, name)
        integer = f"regexp_full_match({text}, '-?(0|[1-9][0-9]{{0,17}})')"
        number = f"regexp_full_match({text}, '{_NUMBER}') AND TRY_CAST({text} AS DOUBLE) IS NOT NULL"
        counts += [f"count({text})", f"count(*) FILTER ({integer})", f"count(*) FILTER ({number})"]
    row = one(connection, f"SELECT {', '.join(counts)} FROM {table.name}")
    for position, name in enumerate(texts):
        present, integers, numbers = row[3 * position : 3 * position + 3]
        kind = "BIGINT" if integers == present else "DOUBLE" if numbers == present else "VARCHAR"
        text = text_of(table, name, alias)
        found[name] = text if kind == "VARCHAR" or not present else f"CAST({text} AS {kind})"
    return found


def _check_predicate(connection: duckdb.DuckDBPyConnection, named: str, field: str, predicate: str) -> None:
    """Runs a predicate by itself, so that what is wrong with it is told with its field."""
    if not predicate:
        return
    relation = f"SELECT {named[2:]} FROM events" if named else "SELECT 1"
    try:
        connection.execute(
            f"SELECT count(*) FROM (SELECT CAST(({predicate}) AS BOOLEAN) AS held FROM ({relation})) WHERE held"
        )
    except duckdb.Error as error:
        raise DataError(f"{field}: {predicate!r} cannot be evaluated: {reason(error)}") from None
