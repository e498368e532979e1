"""Files as they come, read by Spark as by DuckDB: broken quotes, no header, days in directories, the future."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.prepare.engines import assert_engines_agree
from twotower_tf.config import DataConfig, DateSplit, ExperimentConfig, Hash, RandomSplit, TextFormat
from twotower_tf.errors import DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.spark.spark_session import SparkOptions

pytestmark = pytest.mark.spark


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    fields = {"events": "log", "user_id": "user", "item_id": "item", "timestamp": "time"}
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), **(fields | data)),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("user", buckets=10),),
    )


def days(root: Path) -> None:
    for day in range(1, 6):
        directory = root / "log" / f"dt=2026010{day}"
        directory.mkdir(parents=True)
        rows = [f"u{n % 3},i{n % 4},2026-01-0{day}T{n:02d}:00:00Z" for n in range(24)]
        rows += ["u1,i1,2026-01-05T23:30:00Z", "u1,i1,2999-01-01", "u1,,2026-01-03"]
        (directory / "part-0.csv").write_text("\n".join(["user,item,time", *rows]))


def test_days(tmp_path: Path, spark: SparkOptions) -> None:
    days(tmp_path)
    config = experiment(tmp_path, split=DateSplit(2, 1, 1, until="20260104"))
    found = assert_engines_agree(config, tmp_path, spark)
    rows = found["manifest"]["rows"]
    assert rows == {
        "read": 108,
        "used": 96,
        "excluded": {"outside the days of data.split": 4},
        "quarantined": 8,
    }


@pytest.mark.quality
def test_broken_records_without_a_header(tmp_path: Path, spark: SparkOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower_tf.prepare.spark.executors._DRIVER_ROWS", -1)  # little as there is, executors do it
    lines = [f"u{n % 7}~i{n % 5}~{n}" for n in range(300)]
    lines[40], lines[200] = 'u1~"i1~40', 'u1~"i2"x~200'
    lines[250] = "u1~i1"
    lines.append('u2~"i""9"~301')
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    config = experiment(
        tmp_path, events="log.csv.gz", columns=("user", "item", "time"), delimiter="~", split=RandomSplit(0.1, 0.1)
    )
    found = assert_engines_agree(config, tmp_path, spark)
    assert found["manifest"]["rows"] == {"read": 301, "used": 298, "excluded": {}, "quarantined": 3}


def test_forms_of_text_and_warnings(tmp_path: Path, spark: SparkOptions) -> None:
    """Other encodings, escapes and arrays are read in the tasks; the driver has the same warnings."""
    (tmp_path / "log").mkdir()
    rows = [f'"u{n % 3}";"é{n % 4}";"{n}";"say \\"{n}\\""' for n in range(20)]
    text = "\r".join(["user;item;time;note", *rows, '"u1";"";"9";"x"', '\\N;"é1";"9";"x"'])
    (tmp_path / "log" / "a.csv").write_bytes(text.encode("latin-1"))
    (tmp_path / "log" / "b.csv").write_bytes(b"user;item;time;note\r")
    (tmp_path / "items.json").write_text('[{"item": "É0", "colour": "red"}, {"item": "É1", "colour": "\\\\N"}, 7]')
    config = experiment(
        tmp_path,
        items="items.json",
        escape="\\",
        encoding="latin-1",
        item_format=TextFormat(),
        null_values=("\\N",),
        split=RandomSplit(0.1, 0.1),
    )
    manifest = assert_engines_agree(config, tmp_path, spark)["manifest"]
    assert manifest["rows"] == {"read": 22, "used": 20, "excluded": {}, "quarantined": 2}
    assert manifest["warnings"] == [
        "data.events: log/b.csv: no rows",
        "data.events: 2 of 22 rows set aside; the first, log/a.csv:22: no item id: column 'item' is empty",
        "data.items: 1 of 3 rows set aside; the first, items.json record 3: not a JSON object",
        "data.items: none of the 4 item ids of the log is in items.json; the log has 'é0', the table 'É0', which "
        "differ in upper and lower case: write the ids alike",
    ]


def test_a_format_is_proposed_for_unreadable_times(tmp_path: Path, spark: SparkOptions) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu1,i1,31/12/2025\nu2,i2,30/11/2025\n")
    config = experiment(tmp_path, events="log.csv", split=RandomSplit(0.1, 0.1))
    with pytest.raises(DataError) as error:
        prepare_log(config, tmp_path / "run", spark=spark, memory_limit="1GB")
    assert str(error.value) == (
        "data.timestamp: column 'time': 2 of 2 values are not times; e.g. '31/12/2025' at log.csv:2; "
        "set data.timestamp_format to '%d/%m/%Y'"
    )
