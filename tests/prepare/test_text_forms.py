"""Booleans and whole numbers as a text file writes them: found in a log, and clients' values brought to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.test_preparation import write_csv
from twotower_tf.config import Cross, DataConfig, ExperimentConfig, Hash, History, Numeric, RandomSplit, Tags
from twotower_tf.prepare import text_forms
from twotower_tf.prepare.preparation import prepare_log

WRITTEN = [
    ("true", "True", "True"),
    ("false", "True", "False"),
    ("True", "True", "True"),
    ("true", "TRUE", "TRUE"),
    ("false", "TRUE", "FALSE"),
    ("maybe", "TRUE", "maybe"),
    ("3", "3.0", "3.0"),
    ("-3", "3.0", "-3.0"),
    ("3.0", "3.0", "3.0"),
    ("3.5", "3.0", "3.5"),
    ("3a", "3.0", "3a"),
    ("", "3.0", ""),
    ("true", "", "true"),
    ("3", "", "3"),
]


@pytest.mark.parametrize(("text", "form", "expected"), WRITTEN)
def test_a_value_in_the_form_of_a_log(text: str, form: str, expected: str) -> None:
    assert text_forms.apply_form(text, form) == expected
    sql = f"SELECT {text_forms.apply_form_sql('x', form)} FROM (SELECT ? AS x)"
    assert duckdb.execute(sql, [text]).fetchall() == [(expected,)]


def config(root: Path, events: str) -> ExperimentConfig:
    return ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(root), events=events, user_id="user", item_id="item", timestamp="", split=RandomSplit(0.0, 0.0)
        ),
        item_features=(Hash("item", buckets=9),),
        user_features=(
            Hash("user", buckets=9), Hash("vip", buckets=9), Cross(("loud", "seat"), buckets=9),
            Hash("release", buckets=9), Tags("flags", buckets=9), Numeric("age"), Hash("empty", buckets=9),
            History(of="item", name="seen"),
        ),
    )  # fmt: skip


ROWS: list[dict[str, Any]] = [
    {"user": "a", "item": "1.0", "vip": "True", "loud": "FALSE", "seat": "7.0", "release": "1.0", "flags": "True",
     "age": "3.0", "empty": ""},
    {"user": "b", "item": "-2.0", "vip": "", "loud": "TRUE", "seat": "12.0", "release": "1.1", "flags": "True",
     "age": "4.0", "empty": ""},
]  # fmt: skip


def test_the_forms_of_a_log_of_texts(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", ROWS)
    manifest = prepare_log(config(tmp_path, "events.csv"), tmp_path / "run")
    assert manifest["text_forms"] == {"vip": "True", "loud": "TRUE", "seat": "3.0", "seen": "3.0"}


def test_one_value_of_another_form_settles_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_forms, "_SAMPLE_ROWS", 2)  # it stands beyond the rows that are looked at first
    write_csv(tmp_path / "events.csv", [*ROWS, {**ROWS[0], "vip": "true", "seat": "8", "item": "x"}])
    assert prepare_log(config(tmp_path, "events.csv"), tmp_path / "run")["text_forms"] == {"loud": "TRUE"}


def test_typed_columns_have_none(tmp_path: Path) -> None:
    table = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]})
    for name, kind in (("vip", pa.bool_()), ("loud", pa.bool_()), ("seat", pa.float64()), ("item", pa.float64())):
        values = [{"True": True, "TRUE": True, "FALSE": False, "": None}.get(row[name], row[name]) for row in ROWS]
        column = pa.array([float(value) if isinstance(value, str) else value for value in values], kind)
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, tmp_path / "events.parquet")
    assert prepare_log(config(tmp_path, "events.parquet"), tmp_path / "run")["text_forms"] == {}
