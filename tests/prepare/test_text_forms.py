"""Booleans and whole numbers as a text file writes them: found in a log, and clients' values brought to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.prepare.test_preparation import write_csv
from twotower_tf.config import Cross, DataConfig, ExperimentConfig, Hash, History, Numeric, RandomSplit, Tags
from twotower_tf.config.features import Input
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.prepare import text_forms
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.score.type_columns import ColumnTyper
from twotower_tf.score.user_columns import Column
from twotower_tf.tables.time_parser import TimeParser

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


TAGGED = [
    ("1|2.0| -3 |x||4.5", "3.0", ["1.0", "2.0", "-3.0", "x", "4.5"]),
    ("true| false|maybe", "True", ["True", "False", "maybe"]),
    ("", "3.0", []),
    ("1|2", "", ["1", "2"]),
]


@pytest.mark.parametrize(("text", "form", "expected"), TAGGED)
def test_each_tag_in_the_form_of_a_log(text: str, form: str, expected: list[str]) -> None:
    sql = f"SELECT {text_forms.apply_form_sql('x', form, '|')} FROM (SELECT ? AS x)"
    ((found,),) = duckdb.execute(sql, [text]).fetchall()
    assert [each.strip() for each in found.split("|") if each] == expected
    tags = Input("tags", "texts", "|", 9, form=form)
    (values,) = rows_to_arrays((tags,), [{"tags": text}])["tags"]
    assert [value.decode() for value in values if value] == expected


def test_lists_of_typed_tags_in_the_form_of_a_log() -> None:
    tags = (Input("tags", "texts", "|", 9, form="3.0"), Input("flags", "texts", "|", 9, form="True"))
    found = rows_to_arrays(tags, [{"tags": [1, "2", 2.5, "3|4"], "flags": [True, False, "x"]}])
    assert found["tags"].tolist() == [[b"1.0", b"2.0", b"2.5", b"3.0", b"4.0"]]
    assert found["flags"].tolist() == [[b"True", b"False", b"x"]]
    columns = [Column("tags", "tags", "|", "3.0"), Column("flags", "tags", "|", "True")]
    table = pa.table({"id": ["u", "v"], "tags": [[1, 2], [30]], "flags": ["true|x", None]})
    users, _ = ColumnTyper("id", columns, TimeParser()).type_rows(table, 0)
    assert users.columns["tags"].to_pylist() == ["1.0|2.0", "30.0"]
    assert users.columns["flags"].to_pylist() == ["True|x", None]


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
    forms = {"vip": "True", "loud": "TRUE", "seat": "3.0", "flags": "True", "seen": "3.0"}
    assert manifest["text_forms"] == forms
    assert manifest["item_text_forms"] == {"item": "3.0"}


def test_the_forms_of_tags_and_of_the_catalogue(tmp_path: Path) -> None:
    """Of what both log and item table have, only a form that both have counts."""
    write_csv(tmp_path / "events.csv", [{**row, "flags": "True|False", "maker": "7.0"} for row in ROWS])
    items = [
        {"item": "1.0", "labels": "1.0| 22.0|", "mixed": "1.0|2", "brand": "FALSE", "maker": "7", "price": "1.0"},
        {"item": "-2.0", "labels": "", "mixed": "3.0", "brand": "TRUE", "maker": "8", "price": "2.0"},
    ]
    write_csv(tmp_path / "items.csv", items)
    features = (Hash("brand", 9), Hash("maker", 9), Tags("labels", 9), Tags("mixed", 9), Numeric("price"))
    base = config(tmp_path, "events.csv")
    changed = dataclasses.replace(
        base, data=dataclasses.replace(base.data, items="items.csv"), item_features=(*base.item_features, *features)
    )
    manifest = prepare_log(changed, tmp_path / "run")
    assert manifest["text_forms"]["flags"] == "True"
    assert manifest["item_text_forms"] == {"item": "3.0", "brand": "TRUE", "labels": "3.0"}


def test_one_value_of_another_form_settles_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_forms, "_SAMPLE_ROWS", 2)  # it stands beyond the rows that are looked at first
    write_csv(tmp_path / "events.csv", [*ROWS, {**ROWS[0], "vip": "true", "seat": "8", "item": "x"}])
    manifest = prepare_log(config(tmp_path, "events.csv"), tmp_path / "run")
    assert (manifest["text_forms"], manifest["item_text_forms"]) == ({"loud": "TRUE", "flags": "True"}, {})


def test_typed_columns_have_none(tmp_path: Path) -> None:
    table = pa.table({name: [row[name] for row in ROWS] for name in ROWS[0]})
    for name, kind in (("vip", pa.bool_()), ("loud", pa.bool_()), ("seat", pa.float64()), ("item", pa.float64())):
        values = [{"True": True, "TRUE": True, "FALSE": False, "": None}.get(row[name], row[name]) for row in ROWS]
        column = pa.array([float(value) if isinstance(value, str) else value for value in values], kind)
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, tmp_path / "events.parquet")
    manifest = prepare_log(config(tmp_path, "events.parquet"), tmp_path / "run")
    assert (manifest["text_forms"], manifest["item_text_forms"]) == ({"flags": "True"}, {})  # flags stay text
