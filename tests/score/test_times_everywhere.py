"""One time, one moment, whichever way it comes: rows, batch scoring, the served tower."""

from __future__ import annotations

import json
import shutil
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.score.in_process import scored
from twotower_tf import artifacts
from twotower_tf.bundle.bundle import Bundle, seal
from twotower_tf.cli.main import main
from twotower_tf.config.features import Input
from twotower_tf.errors import DataError
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.retrieval.recommender import Recommender
from twotower_tf.score.score_options import Options
from twotower_tf.score.type_columns import ColumnTyper
from twotower_tf.score.user_columns import Column
from twotower_tf.tables.time_parser import TimeParser

# --- times --------------------------------------------------------------------------------------------------------

NINE = 1736499600  # 2025-01-10 09:00 UTC
MOMENT = datetime(2025, 1, 10, 9, tzinfo=timezone.utc)
ALWAYS = [
    "2025-01-10T09:00:00Z",
    "2025-01-10 10:00+01:00",
    MOMENT,
    MOMENT.replace(tzinfo=None),
    pd.Timestamp(MOMENT),
    np.datetime64("2025-01-10T09:00:00.999999999"),
]
# by the log's form: what is nine o'clock, and what is refused
TIMES: dict[str, tuple[list[Any], list[Any]]] = {
    "epoch seconds": (
        [NINE, f"{NINE}", NINE + 0.5, *ALWAYS],
        [NINE * 1000, NINE * 10**6, 20250110, "20250110", "10.01.2025", True, 10**30, float("inf")],
    ),
    "epoch milliseconds": ([NINE * 1000 + 777, f"{NINE}000", NINE * 1000.0, *ALWAYS], [NINE, 20250110, 2025011009]),
    "epoch microseconds": ([NINE * 10**6 + 1, f"{NINE}000000", *ALWAYS], [NINE, NINE * 1000, NINE * 10**9]),
    "epoch nanoseconds": ([NINE * 10**9 + 1, f"{NINE}000000000", *ALWAYS], [NINE, NINE * 1000, NINE * 10**6]),
    "YYYYMMDDHH": ([2025011009, "2025011009", 2025011009.0, *ALWAYS], [NINE, 20250110, 2025011025]),
    "YYMMDDHH": ([25011009, "25011009", *ALWAYS], [NINE, 2025011009]),
    "ISO 8601": ([NINE, NINE * 1000, NINE * 10**6, NINE * 10**9, *ALWAYS], [20250110, "20250110", "soon"]),
    "a time": ([NINE, NINE * 1000, *ALWAYS], [20250110, 25011009]),
    "": ([NINE, NINE * 1000, *ALWAYS], [20250110, 25011009]),
    "%d.%m.%Y %H": (["10.01.2025 09", *ALWAYS[2:]], ["2025-01-10T09:00:00Z", NINE, 2025011009]),
}
ONE = [(form, value, NINE) for form, (good, _) in TIMES.items() for value in good]
ONE += [(form, value, None) for form, (_, refused) in TIMES.items() for value in refused]


@pytest.mark.parametrize(("form", "value", "expected"), ONE)
def test_a_time_is_one_in_rows_and_in_batch_scoring(form, value, expected):
    times = TimeParser(form)
    inputs = (Input("ts", "time"),)
    if expected is None:
        with pytest.raises(DataError, match="feature 'ts': invalid time "):
            rows_to_arrays(inputs, [{"ts": value}], times)
    else:
        assert rows_to_arrays(inputs, [{"ts": value}], times)["ts"].tolist() == [expected]
    if isinstance(value, int) and abs(value) > 2**63:
        return  # Arrow has no such integer
    column = pa.array([value])
    users, bad = ColumnTyper("id", (Column("ts", "time"),), times).type_rows(pa.table({"id": ["a"], "ts": column}), 0)
    assert users.columns["ts"].to_pylist() == [expected]
    assert [each.reason.startswith(f"column 'ts': invalid time {column[0].as_py()!r} (expected ") for each in bad] == (
        [True] if expected is None else []
    )


@pytest.mark.parametrize("text", ["\ud800", "\0", "2025-01-10T09:00:00Z\0", "\udfff1736499600"])
def test_a_text_that_no_sql_can_hold_is_an_invalid_time(text):
    for form in TIMES:
        assert TimeParser(form).read([text, None]) == [None, 0]


@pytest.mark.parametrize("form", TIMES)
def test_no_time_is_none(form):
    rows = [{"ts": value} for value in (None, "", float("nan"), pd.NaT, pd.NA, np.datetime64("NaT"), 0)]
    got = rows_to_arrays((Input("ts", "time"),), rows[: None if "%" not in form else -1], TimeParser(form))["ts"]
    assert not got.any()


def test_times_of_every_arrow_type():
    moment = MOMENT + timedelta(milliseconds=999)
    kinds = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")]
    for kind in kinds:
        table = pa.table({"id": ["a"], "ts": pa.array([moment], pa.timestamp("us", "UTC")).cast(kind, safe=False)})
        users, bad = ColumnTyper("id", (Column("ts", "time"),), TimeParser("epoch milliseconds")).type_rows(table, 0)
        assert (users.columns["ts"].to_pylist(), bad) == ([NINE], []), kind
    table = pa.table({"id": ["a"], "ts": [date(2025, 1, 10)]})
    users, _ = ColumnTyper("id", (Column("ts", "time"),), TimeParser()).type_rows(table, 0)
    assert users.columns["ts"].to_pylist() == [NINE - 9 * 3600]


def test_a_log_of_places_in_an_order_keeps_its_small_numbers():
    """A log without times may give the place in the user's order: numbers as small as the log's own are valid."""
    inputs = (Input("ts", "time"),)
    assert rows_to_arrays(inputs, [{"ts": 41}], TimeParser("epoch seconds", 0, 40))["ts"].tolist() == [41]
    with pytest.raises(DataError, match="invalid time 41 .expected epoch seconds from 100000000 to 99999999999, or"):
        rows_to_arrays(inputs, [{"ts": 41}], TimeParser("epoch seconds", NINE, NINE))


@pytest.fixture
def of_milliseconds(export_dir, tmp_path):
    """The same model, as if its log had been written in milliseconds."""
    shutil.copytree(export_dir, tmp_path / "root")
    path = tmp_path / "root" / "7" / "manifest.json"
    document = json.loads(path.read_text())
    assert document["time"]["form"] == "epoch seconds"
    first, last = document["time"]["first"], document["time"]["last"]
    assert 1_000_000_000 < first < last < 2_000_000_000
    artifacts.write_json(path, seal({**document, "time": {"form": "epoch milliseconds", "first": first, "last": last}}))
    return tmp_path / "root"


def test_a_bundle_says_how_its_log_writes_times(export_dir, of_milliseconds, tmp_path, capsys):
    (expected,) = Recommender(Bundle.open(export_dir)).vectors([{"timestamp": NINE}])
    (none,) = Recommender(Bundle.open(export_dir)).vectors([{}])
    assert np.abs(expected - none).max() > 1e-4  # the hour does matter
    recommender = Recommender(Bundle.open(of_milliseconds))
    np.testing.assert_allclose(recommender.vectors([{"timestamp": NINE * 1000}])[0], expected, atol=1e-6)
    (tmp_path / "users.csv").write_text(
        f"user_id,timestamp\nu1,{NINE * 1000}\nu2,{NINE}\nu3,{NINE * 1000}\nu4,2025-01-10T09:00Z\n"
    )
    absent = ("country", "age", "interests", "device_type", "history")
    options = {"export_dir": of_milliseconds, "users": str(tmp_path / "users.csv"), "output": tmp_path / "out"}
    table, _, (quarantine,) = scored(Options(**options, absent=absent, vectors_only=True))
    assert table["user_id"].to_pylist() == ["u1", "u3", "u4"]
    rows = [{"user_id": user, "timestamp": MOMENT} for user in ("u1", "u3", "u4")]
    np.testing.assert_allclose(np.array(table["vector"].to_pylist()), recommender.vectors(rows), atol=1e-6)
    assert quarantine["line"] == 3 and "column 'timestamp': invalid time '1736499600'" in quarantine["reason"]
    capsys.readouterr()
    user = json.dumps({"timestamp": NINE})
    assert main(["recommend", f"--export_dir={of_milliseconds}", f"--user={user}"]) == 2
    assert "feature 'timestamp': invalid time 1736499600 (expected epoch milliseconds from" in capsys.readouterr().err


def test_a_bundle_that_does_not_say_is_read_by_size(of_milliseconds):
    path = of_milliseconds / "7" / "manifest.json"
    document = json.loads(path.read_text())
    del document["time"]
    artifacts.write_json(path, seal(document))
    recommender = Recommender(Bundle.open(of_milliseconds))
    vectors = recommender.vectors([{"timestamp": NINE}, {"timestamp": NINE * 1000}, {"timestamp": MOMENT}])
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=1e-6)
    with pytest.raises(DataError, match="feature 'timestamp': invalid time 20250110 "):
        recommender.vectors([{"timestamp": 20250110}])


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_a_whole_number_is_the_time_of_its_text(unit):
    """Texts are read by SQL, whole numbers without it: also at the ends of the range, and before 1970."""
    name = {1: "epoch seconds", 1000: "epoch milliseconds", 10**6: "epoch microseconds", 10**9: "epoch nanoseconds"}
    draw = np.random.default_rng(unit)
    for first, last in ((None, None), (-86_400, 40), (NINE, NINE)):
        times = TimeParser(name[unit], first, last)
        low, high = min(10**8, 10**8 if first is None else first) * unit, 10**11 * unit
        values = [low - unit, low - 1, low, low + 1, high - 1000 * unit, high + 1000 * unit, 0, 1, NINE * unit]
        values += [int(value) for value in draw.integers(low, min(high, 2**62), 50)]
        assert times.read(values) == times.read([str(value) for value in values])
