"""Time columns, each form against Python's own datetime."""

from __future__ import annotations

import random
import re
from datetime import date, datetime, timezone
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from twotower_tf.errors import DataError
from twotower_tf.tables import timestamps
from twotower_tf.tables.time_proposals import propose_formats


def read(values: list[Any], form: str = "") -> tuple[str, list[int | None]]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("arrow", pa.table({"x": values}))
    connection.execute("CREATE TABLE t AS SELECT * FROM arrow")
    kind = connection.execute("DESCRIBE t").fetchall()[0][1]
    clock = timestamps.detect_format(connection, "t", "x", kind, column="x", form=form)
    return clock.form, [
        row[0] for row in connection.execute(f"SELECT {clock.seconds} FROM t ORDER BY rowid").fetchall()
    ]


def utc(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=timezone.utc).timestamp())  # type: ignore[arg-type]


CASES: dict[str, tuple[list[Any], str, list[int | None]]] = {
    "seconds": (["881250949", "0", "-1", "1414540800.9"], "epoch seconds", [881250949, 0, -1, 1414540800]),
    "milliseconds": (["1414540800999", "881250949000"], "epoch milliseconds", [1414540800, 881250949]),
    "milliseconds, with seconds among them": (
        ["1414540800999", "881250949000", "-1414540800999", "1414540800", "0"],
        "epoch milliseconds",
        [1414540800, 881250949, -1414540801, None, None],
    ),
    "nanoseconds, with milliseconds among them": (
        ["1414540800999888777", "881250949000000000", "1414540800999"],
        "epoch nanoseconds",
        [1414540800, 881250949, None],
    ),
    "seconds, with one absurd": (
        ["881250949", "881250950", "99999999999999"],
        "epoch seconds",
        [881250949, 881250950, None],
    ),
    "positions": ([0, 1, -1, 2314], "epoch seconds", [0, 1, -1, 2314]),
    "integers": ([1414540800, None], "epoch seconds", [1414540800, None]),
    "doubles": ([1414540800.5, float("nan")], "epoch seconds", [1414540800, None]),
    "avazu": (["14102100", "14103023"], "YYMMDDHH", [utc(2014, 10, 21), utc(2014, 10, 30, 23)]),
    "avazu as integers": ([14102100], "YYMMDDHH", [utc(2014, 10, 21)]),
    "days": (["20141021", "20141332", "20000229"], "YYYYMMDD", [utc(2014, 10, 21), None, utc(2000, 2, 29)]),
    "a day that could be an hour": (["20101021"], "YYYYMMDD", [utc(2010, 10, 21)]),
    "hours": ([2014102123], "YYYYMMDDHH", [utc(2014, 10, 21, 23)]),
    "minutes": (["201410212359"], "YYYYMMDDHHmm", [utc(2014, 10, 21, 23, 59)]),
    "second stamps": (["20141021235958"], "YYYYMMDDHHmmss", [utc(2014, 10, 21, 23, 59, 58)]),
    "iso": (
        [
            "2014-10-21",
            "2014-10-21T08:30:00Z",
            "2014-10-21 08:30:00.75+02:00",
            " 2014-10-21T08:30 ",
            "2014-13-01",
            "epoch",
            "",
        ],
        "ISO 8601",
        [
            utc(2014, 10, 21),
            utc(2014, 10, 21, 8, 30),
            utc(2014, 10, 21, 6, 30),
            utc(2014, 10, 21, 8, 30),
            None,
            None,
            None,
        ],
    ),
    "datetimes": ([datetime(2014, 10, 21, 8, 30, 0, 900000), None], "a time", [utc(2014, 10, 21, 8, 30), None]),
    "aware datetimes": ([datetime(2014, 10, 21, 8, 30, tzinfo=timezone.utc)], "a time", [utc(2014, 10, 21, 8, 30)]),
    "before 1970": (["1969-12-31T23:59:59.5Z", "1969-12-31T23:59:58Z"], "ISO 8601", [-1, -2]),
    "dates": ([date(2014, 10, 21)], "a time", [utc(2014, 10, 21)]),
    "nothing": (["", None], "YYYYMMDD", [None, None]),
}


@pytest.mark.parametrize("case", CASES)
def test_form_is_recognised_for_the_whole_column(case: str) -> None:
    values, form, seconds = CASES[case]
    assert read(values) == (form, seconds)


@pytest.mark.parametrize("seed", range(40))
def test_the_first_rows_decide_nothing_that_the_others_do_not(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    kinds = ["20101021", "14102100", "2014102123", "201410212359", "20141021235958", "2014-10-21", "3", "1414540800",
             "1414540800999", "20101399", "soon", ""]  # fmt: skip
    values = [chance.choice(chance.sample(kinds, 2)) for _ in range(chance.randrange(4, 9))]
    found = []
    for rows in (0, 1, 3):
        monkeypatch.setattr(timestamps, "_SAMPLE_ROWS", rows)
        try:
            found.append(read(values))
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1] == found[2]


def test_a_given_format_settles_doubt() -> None:
    assert read(["20101021"], "%y%m%d%H") == ("%y%m%d%H", [utc(2020, 10, 10, 21)])
    assert read(["21/10/2014 08:30 +0200"], "%d/%m/%Y %H:%M %z")[1] == [utc(2014, 10, 21, 6, 30)]


def test_an_impossible_format_is_named() -> None:
    with pytest.raises(DataError, match=r"^data\.timestamp_format: invalid strptime format '%Q': "):
        read(["2014"], "%Q")


def test_a_column_without_times_is_refused() -> None:
    with pytest.raises(DataError, match=r"^data\.timestamp: column 'x': 2 of 3 values are not times;"):
        read(["soon", "later", "3"])


STAMPS = [datetime(2024, month, day, hour, 5, 9) for month, day, hour in ((1, 2, 3), (3, 25, 14), (11, 30, 0))]


@pytest.mark.parametrize(
    "form",
    [
        "%d/%m/%Y",
        "%m/%d/%Y %H:%M",
        "%d.%m.%Y %H:%M:%S",
        "%m-%d-%Y",
        "%Y/%m/%d %H:%M:%S",
        "%d/%m/%y %H:%M",
        "%m/%d/%Y %I:%M:%S %p",
        "%d %b %Y %H:%M:%S",
        "%b %d, %Y",
        "%a, %d %b %Y %H:%M:%S GMT",
        "%d/%b/%Y:%H:%M:%S +0000",
    ],
)
def test_formats_are_proposed(form: str) -> None:
    """The proposed format gives the times back, to the minute where it has minutes."""
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t (v VARCHAR)")
    connection.executemany("INSERT INTO t VALUES (?)", [(stamp.strftime(form),) for stamp in STAMPS])
    (proposed,) = propose_formats(connection, "t", "v")
    for stamp in STAMPS:
        text = stamp.strftime(form)
        zone = proposed.replace("%Z", "GMT").replace("%z", "+0000")
        assert datetime.strptime(text, zone) == datetime.strptime(text, form)
    with pytest.raises(DataError, match=re.escape(f"; set data.timestamp_format to {proposed!r}")):
        timestamps.detect_format(connection, "t", "v", "VARCHAR", column="v")


def test_day_and_month_that_cannot_be_told_apart() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t AS SELECT unnest(['01/02/2024', '3/11/2024', '']) AS v")
    assert propose_formats(connection, "t", "v") == ["%d/%m/%Y", "%m/%d/%Y"]
    connection.execute("INSERT INTO t VALUES ('noon')")
    assert propose_formats(connection, "t", "v") == []
