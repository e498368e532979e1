"""One value, one text, whichever way it comes: the log's readers, batch scoring, rows and data frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.score.in_process import scored
from tests.score.test_times_everywhere import MOMENT
from twotower_tf import artifacts
from twotower_tf.bundle.bundle import Bundle, seal
from twotower_tf.config.features import Input
from twotower_tf.errors import DataError
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.retrieval.recommender import Recommender
from twotower_tf.score.score_options import Options
from twotower_tf.score.type_columns import ColumnTyper
from twotower_tf.score.user_columns import Column
from twotower_tf.tables import input_files, readers
from twotower_tf.tables.time_parser import TimeParser


@dataclass(frozen=True)
class Form:
    """A value as each way writes it; a way without an entry has no such value."""

    text: str
    arrow: pa.Array | None = None
    csv: str | None = None
    json: str | None = None
    python: list[Any] = field(default_factory=list)
    frame: list[pd.Series] = field(default_factory=list)


def arrow(value: Any, kind: pa.DataType) -> pa.Array:
    return pa.array([value], kind)


def series(value: Any, kind: Any) -> pd.Series:
    return pd.Series([value], dtype=kind)


BIG = Decimal("123456789012345678901234567890123456.5")
FORMS = {
    "float32 0.1": Form(
        "0.1",
        arrow(0.1, pa.float32()),
        "0.1",
        "0.1",
        [0.1, np.float32(0.1)],
        [
            series(0.1, "float32"),
            series(0.1, "Float32"),
            series(0.1, pd.ArrowDtype(pa.float32())),
            series(0.1, "float32").astype("category"),
            series(0.1, "float64"),
        ],
    ),
    "float32 3.0": Form("3", arrow(3.0, pa.float32()), "3", "3.0", [3, 3.0, np.float32(3)], [series(3, "float32")]),
    "float16 0.5": Form("0.5", arrow(0.5, pa.float16()), None, None, [np.float16(0.5)], [series(0.5, "float16")]),
    "float16 0.1": Form("0.099975586", arrow(np.float16(0.1), pa.float16()), None, None, [np.float16(0.1)]),
    "float64 with a gap": Form("7", arrow(7.0, pa.float64()), "7", "7", [7.0, Decimal("7.00")], [series(7, "Int64")]),
    "int8": Form("-5", arrow(-5, pa.int8()), "-5", "-5", [-5, np.int8(-5)], [series(-5, "int8")]),
    "int64": Form(
        "9007199254740993",
        arrow(2**53 + 1, pa.int64()),
        "9007199254740993",
        "9007199254740993",
        [2**53 + 1, Decimal(2**53 + 1), "9007199254740993"],
        [series(2**53 + 1, "int64"), series(2**53 + 1, object)],
    ),
    "2^64 - 1": Form(
        "18446744073709551615",
        arrow(2**64 - 1, pa.uint64()),
        "18446744073709551615",
        "18446744073709551615",
        [2**64 - 1, np.uint64(2**64 - 1)],
        [series(2**64 - 1, "uint64")],
    ),
    "2^64 + 1": Form(
        "18446744073709551617",
        arrow(Decimal(2**64 + 1), pa.decimal128(20, 0)),
        "18446744073709551617",
        "18446744073709551617",
        [2**64 + 1, Decimal(2**64 + 1)],
        [series(2**64 + 1, object), series(Decimal(2**64 + 1), object)],
    ),
    "below -2^63": Form(
        "-9223372036854775809",
        arrow(Decimal(-(2**63) - 1), pa.decimal128(38, 0)),
        "-9223372036854775809",
        "-9223372036854775809",
        [-(2**63) - 1],
    ),
    "decimal with a fraction": Form(
        "123456789012345678901234567890123456.5",
        arrow(BIG, pa.decimal128(38, 2)),
        "123456789012345678901234567890123456.5",
        '"123456789012345678901234567890123456.5"',
        [BIG, Decimal("123456789012345678901234567890123456.50")],
    ),
    "decimal zero": Form("0", arrow(Decimal("0.00"), pa.decimal128(5, 2)), "0", "0.0", [Decimal("-0.00"), 0, -0.0]),
    "true": Form(
        "true", arrow(True, pa.bool_()), "true", "true", [True, np.True_], [series(True, bool), series(True, "boolean")]
    ),
    "text 3.0": Form("3.0", arrow("3.0", pa.string()), "3.0", '"3.0"', ["3.0", b"3.0"], [series("3.0", object)]),
    "gap": Form(
        "",
        arrow(float("nan"), pa.float32()),
        "",
        "null",
        [None, "", float("nan"), np.float32("nan"), Decimal("nan"), pd.NA, pd.NaT, np.datetime64("NaT")],
        [series(np.nan, "float32"), series(None, "Float32"), series(None, "Int64"), series(None, "category")],
    ),
}
ARROW = {name: form for name, form in FORMS.items() if form.arrow is not None}
CSV = {name: form for name, form in FORMS.items() if form.csv is not None}
JSON = {name: form for name, form in FORMS.items() if form.json is not None}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The text of every form in a log of each file format, as training hashes it."""
    root = tmp_path_factory.mktemp("log")
    pq.write_table(pa.table({name: form.arrow for name, form in ARROW.items()}), root / "log.parquet")
    # in one more column something always stands: a line without any would be none
    (root / "log.csv").write_text(
        ",".join([*CSV, "x"]) + "\n" + ",".join([*(form.csv for form in CSV.values()), "x"]) + "\n"
    )
    (root / "log.jsonl").write_text("{" + ", ".join(f'"{name}": {form.json}' for name, form in JSON.items()) + "}\n")
    found = {}
    for suffix in ("parquet", "csv", "jsonl"):
        with duckdb.connect() as connection:
            connection.execute(f"SET temp_directory = '{root / 'spill'}'")
            table = readers.read_table(
                connection, "log", input_files.find_files(root, f"log.{suffix}", "log"), lambda name: True
            )
            names = [name for name in table.known if name in FORMS]
            assert len(names) == len({"parquet": ARROW, "csv": CSV, "jsonl": JSON}[suffix])
            (row,) = connection.execute(f"SELECT {', '.join(table.text(name) for name in names)} FROM log").fetchall()
            found[suffix] = {name: text or "" for name, text in zip(names, row, strict=True)}
    return found


@pytest.mark.parametrize("name", FORMS)
def test_training(read, name):
    texts = {suffix: found[name] for suffix, found in read.items() if name in found}
    assert texts == dict.fromkeys(texts, FORMS[name].text)


@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("coded", [False, True], ids=["plain", "dictionary"])
def test_batch_scoring(name, coded):
    column = FORMS[name].arrow
    if coded and (pa.types.is_float16(column.type) or pa.types.is_boolean(column.type)):
        pytest.skip("Arrow has no such dictionary")
    column = column.dictionary_encode() if coded else column
    table = pa.table({"id": column, "c": column})
    users, _ = ColumnTyper("id", (Column("c", "text"),), TimeParser()).type_rows(table, 0)
    values = users.columns["c"]
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    assert (values[0].as_py() or "") == (users.ids[0].as_py() or "") == FORMS[name].text


@pytest.mark.parametrize("name", FORMS)
def test_rows(name):
    inputs = (Input("c", "text"), Input("tags", "texts", "|", 2), Input("history", "texts", "", 2, keep_last=True))
    for value in FORMS[name].python:
        row = {"c": value, "tags": [value], "history": [value]}
        got = rows_to_arrays(inputs, [row])
        expected = FORMS[name].text.encode()
        assert (got["c"].tolist(), got["tags"].tolist(), got["history"].tolist()) == (
            [expected],
            [[expected]],
            [[expected]],
        ), repr(value)


@pytest.mark.parametrize("name", FORMS)
def test_data_frames(name):
    class Rows(Recommender):
        def __init__(self) -> None:
            self.inputs = (Input("c", "text"),)

        def recommend(self, rows, k, exclude=None, filter="", *, names=False):
            self.rows = rows
            return [{"item_ids": [], "item_names": [], "scores": [], "model_version": 1} for _ in rows]

    for column in FORMS[name].frame:
        rows = Rows()
        rows.recommend_frame(pd.DataFrame({"c": column}), 1)
        assert rows_to_arrays((Input("c", "text"),), rows.rows)["c"].tolist() == [FORMS[name].text.encode()], (
            column.dtype
        )


def test_the_served_tower_takes_the_text(export_dir):
    """A client that sends the text and one that sends the value get one vector."""
    recommender = Recommender(Bundle.open(export_dir))
    for form in FORMS.values():
        vectors = recommender.vectors([{"user_id": value} for value in [form.text, *form.python]])
        np.testing.assert_allclose(vectors, np.broadcast_to(vectors[0], vectors.shape), atol=1e-6, err_msg=form.text)


def test_a_number_beyond_every_exact_double_is_the_nearest():
    table = pa.table({"id": ["a"], "age": pa.array([2**53 + 1], pa.int64())})
    users, bad = ColumnTyper("id", (Column("age", "number"),), TimeParser()).type_rows(table, 0)
    assert bad == [] and users.columns["age"].to_pylist() == [2.0**53]


def test_a_decimal_that_duckdb_would_round_is_refused(tmp_path):
    pq.write_table(pa.table({"id": pa.array([Decimal(10) ** 44], pa.decimal256(45, 0))}), tmp_path / "log.parquet")
    with duckdb.connect() as connection, pytest.raises(DataError) as error:
        readers.read_table(connection, "log", input_files.find_files(tmp_path, "log.parquet", "log"), lambda name: True)
    assert str(error.value) == (
        "log.parquet: column 'id': invalid type decimal256(45, 0) (expected a decimal of at most 38 digits); "
        "write it as text"
    )


# --- booleans and whole numbers of text files ---------------------------------------------------------------------


def test_typed_values_are_written_as_the_log_of_texts_has_them(export_dir, tmp_path):
    """`True` and `3.0` of a CSV log, for clients whose booleans and numbers are typed."""
    plain = Recommender(Bundle.open(export_dir))
    shutil.copytree(export_dir, tmp_path / "root")
    path = tmp_path / "root" / "7" / "manifest.json"
    document = json.loads(path.read_text())
    assert document["text_forms"] == {}
    forms = {"country": "True", "user_id": "3.0", "history": "3.0"}
    artifacts.write_json(path, seal({**document, "text_forms": forms}))
    recommender = Recommender(Bundle.open(tmp_path / "root"))
    (expected,) = plain.vectors([{"country": "True", "user_id": "3.0", "history": ["5.0", "x"]}])
    (other,) = plain.vectors([{"country": True, "user_id": 3, "history": [5, "x"]}])
    assert np.abs(expected - other).max() > 1e-4
    same = [
        {"country": True, "user_id": 3, "history": [5, "x"]},
        {"country": "true", "user_id": 3.0, "history": "5|x"},
        {"country": np.True_, "user_id": "3", "history": ["5.0", "x"]},
        {"country": "True", "user_id": Decimal("3.00"), "history": "5.0|x"},
    ]
    vectors = recommender.vectors(same)
    np.testing.assert_allclose(vectors, np.broadcast_to(expected, vectors.shape), atol=1e-6)
    tables = {
        "typed.parquet": pa.table({"user_id": [3], "country": [True], "history": [["5", "x"]]}),
        "texts.parquet": pa.table({"user_id": ["3.0"], "country": ["True"], "history": ["5.0|x"]}),
    }
    for name, table in tables.items():
        pq.write_table(table, tmp_path / name)
        options = {"export_dir": tmp_path / "root", "users": str(tmp_path / name), "output": tmp_path / f"{name}.out"}
        # a time that the table lacks is that of the scoring: 0 is none
        found, _, _ = scored(Options(**options, absent=("age", "interests", "device_type"), at=0, vectors_only=True))
        assert found["user_id"].to_pylist() == [str(table["user_id"][0].as_py())]
        np.testing.assert_allclose(found["vector"].to_pylist(), [expected], atol=1e-6)


def test_markers_of_missing_values_are_none_in_rows_and_in_batch_scoring() -> None:
    """The texts that `data.null_values` names; as a part of a text or of tags they are texts."""
    markers = ("\\N", "nan")
    text = Input("t", "text", null_values=markers)
    tags = Input("tags", "texts", "|", 9, null_values=markers)
    past = Input("past", "texts", "", 9, keep_last=True, null_values=markers)
    number, moment = Input("n", "number", null_values=markers), Input("ts", "time", null_values=markers)
    row = {"t": "\\N", "tags": "nan", "past": ["a", "\\N", "b"], "n": "\\N", "ts": "\\N"}
    other = {"t": "\\Na", "tags": "a|nan", "past": ["nana"], "n": 5, "ts": MOMENT}
    found = rows_to_arrays((text, tags, past, number, moment), [row, other])
    assert found["t"].tolist() == [b"", b"\\Na"]
    assert found["tags"].tolist() == [[b"", b""], [b"a", b"nan"]]
    assert found["past"].tolist() == [[b"a", b"b"], [b"nana", b""]]
    assert np.isnan(found["n"][0]) and found["n"][1] == 5
    assert found["ts"][0] == 0 and found["ts"][1] > 0
    columns = (
        Column("t", "text"),
        Column("tags", "tags", "|"),
        Column("past", "history", "|"),
        Column("n", "number"),
        Column("ts", "time"),
    )
    table = pa.table(
        {
            "id": ["u", "nan"],
            "t": ["\\N", "\\Na"],
            "tags": ["nan", "a|nan"],
            "past": [["a", "\\N", "b"], ["nana"]],
            "n": ["\\N", "5"],
            "ts": ["\\N", str(MOMENT)],
        }
    )
    users, bad = ColumnTyper("id", columns, TimeParser(), markers).type_rows(table, 0)
    assert [(each.place, each.reason) for each in bad] == [(1, "no user id: column 'id' is empty")]
    assert users.columns["t"].to_pylist() == [None, "\\Na"]
    assert users.columns["tags"].to_pylist() == [None, "a|nan"]
    assert users.columns["past"].to_pylist() == [["a", None, "b"], ["nana"]]
    assert users.columns["n"].to_pylist() == [None, 5.0]
    assert users.columns["ts"].to_pylist()[0] is None
