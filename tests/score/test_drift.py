"""Input that is not what it was: one line before work starts, or a row in the quarantine."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.score.people import COLUMNS, delimited, json_lines, parquet, people
from twotower_tf.cli.main import main
from twotower_tf.errors import ConfigError
from twotower_tf.score import inspect_users
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_plan import Planner
from twotower_tf.score.type_columns import ColumnTyper
from twotower_tf.score.user_columns import Column
from twotower_tf.tables.time_parser import TimeParser


def replaced(path, name, column):
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def refused(capsys, export_dir, tmp_path, users, *flags):
    """The line that a scoring of these users is refused with; nothing is written."""
    output = tmp_path / "out"
    assert main(["score", f"--export_dir={export_dir}", f"--users={users}", f"--output={output}", *flags]) == 2
    assert not output.exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("twotower score: ").replace(f"{tmp_path}/", "")


def test_a_missing_column(tmp_path, export_dir, capsys):
    parquet(tmp_path / "u.parquet", people(10))
    table = pq.read_table(tmp_path / "u.parquet").rename_columns(
        [{"country": "cuontry"}.get(name, name) for name in COLUMNS]
    )
    pq.write_table(table, tmp_path / "u.parquet")
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.parquet") == (
        "user_features: unknown column in u.parquet 'country'; did you mean 'cuontry'? "
        "(--absent=country scores without)"
    )


def test_missing_columns_are_told_together(tmp_path, export_dir, capsys):
    (tmp_path / "u.csv").write_text("user_id,country,age,timestamp\nu1,DE,3,1736500000\n")
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.csv") == (
        "user_features: unknown column in u.csv 'interests'; known: age, country, timestamp, user_id "
        "(--absent=interests,device_type,history scores without; "
        "--users_from_events builds histories from a prepared log)"
    )


def test_no_id(tmp_path, export_dir, capsys):
    (tmp_path / "u.csv").write_text("uid,country\nu1,DE\n")
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.csv") == (
        "data.user_id: unknown column in u.csv 'user_id'; did you mean 'uid'?"
    )


def test_one_of_many_files_lacks_a_column(tmp_path, export_dir, capsys):
    directory = tmp_path / "users"
    directory.mkdir()
    parquet(directory / "a.parquet", people(10))
    parquet(directory / "b.parquet", people(10))
    pq.write_table(pq.read_table(directory / "b.parquet").drop_columns(["age"]), directory / "b.parquet")
    assert refused(capsys, export_dir, tmp_path, directory).startswith(
        "user_features: unknown column in users/b.parquet 'age'; known: country, device_type,"
    )


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("age", pa.array(["31"] * 10), "column 'age': invalid type string (expected a number)"),
        ("country", pa.array([["DE"]] * 10), "column 'country': invalid type list<item: string> (expected one value)"),
        (
            "interests",
            pa.array([{"a": 1}] * 10),
            "column 'interests': invalid type struct<a: int64> (expected one text or a list of texts)",
        ),
        ("history", pa.array([1.5] * 10), "column 'history': invalid type double (expected a list of item ids)"),
        ("timestamp", pa.array([[1]] * 10), "column 'timestamp': invalid type list<item: int64> (expected a time)"),
    ],
)
def test_another_type(tmp_path, export_dir, capsys, name, column, expected):
    parquet(tmp_path / "u.parquet", people(10))
    replaced(tmp_path / "u.parquet", name, column)
    line = refused(capsys, export_dir, tmp_path, tmp_path / "u.parquet")
    assert line.replace("list<element:", "list<item:") == f"u.parquet: {expected}"


def test_types_that_differ_between_files(tmp_path, export_dir, capsys):
    directory = tmp_path / "users"
    directory.mkdir()
    for name in ("a", "b"):
        parquet(directory / f"{name}.parquet", people(10))
    replaced(directory / "b.parquet", "country", pa.array([7] * 10))
    assert refused(capsys, export_dir, tmp_path, directory) == (
        "users/b.parquet: column 'country' is int64, but string in users/a.parquet; "
        "files of one table have one type for a column"
    )


def test_words_where_numbers_were(tmp_path, export_dir, capsys):
    delimited(tmp_path / "u.csv", [{**row, "age": "old"} for row in people(10)])
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.csv") == (
        "u.csv: column 'age': invalid number in 10 of the first 10 values, e.g. 'old'; the model was trained on numbers"
    )


def test_words_where_times_were(tmp_path, export_dir, capsys):
    delimited(tmp_path / "u.csv", [{**row, "timestamp": "soon"} for row in people(10)])
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.csv") == (
        "u.csv: column 'timestamp': invalid time in 10 of the first 10 values, e.g. 'soon'; the model was trained on "
        "times: expected epoch seconds from 100000000 to 99999999999, or ISO 8601"
    )


def test_a_separator_that_is_none_of_the_known(tmp_path, export_dir, capsys):
    delimited(tmp_path / "u.csv", people(10), "#")
    line = refused(capsys, export_dir, tmp_path, tmp_path / "u.csv")
    assert line.startswith("data.user_id: unknown column in u.csv 'user_id'; known: user_id#country#age#")


def test_another_separator_is_seen(tmp_path, export_dir):
    delimited(tmp_path / "u.csv", people(10), ";")
    planner = Planner(Options(export_dir=export_dir, output=tmp_path / "out", users=str(tmp_path / "u.csv")))
    assert [column.name for column in planner._table.columns][:3] == ["user_id", "country", "age"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--absent=histroy",), "--absent: unknown user feature column 'histroy'; did you mean 'history'?"),
        (("--k=1001",), "--k: invalid value 1001 (expected 1 to 1000); raise --max_k for more"),
        (
            ("--exclude_seen",),
            "--exclude_seen: needs --users_from_events; a table of pairs goes with --exclude",
        ),
        (
            ("--vectors_only", "--filter=price > 1"),
            "--vectors_only: has no items to name or filter; remove --filter, --names, --exclude, --exclude_seen",
        ),
        (
            ("--users_from_events=x",),
            "--users or --users_from_events is required, not both",
        ),
        (("--filter=prize > 1",), "filter: unknown column 'prize'; did you mean 'price'?"),
        (("--memory_limit=much",), "--memory_limit: invalid size 'much' (expected e.g. 4GB or 500MB)"),
        (("--spark_master=local[2]",), "--spark_master: needs --engine=spark; got --engine=local"),
    ],
)
def test_flags(tmp_path, export_dir, capsys, flags, expected):
    parquet(tmp_path / "u.parquet", people(10))
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.parquet", *flags).startswith(expected)


def test_no_rows(tmp_path, export_dir, capsys):
    (tmp_path / "u.csv").write_text("user_id\n")
    assert refused(capsys, export_dir, tmp_path, tmp_path / "u.csv") == "--users: u.csv: no rows"
    (tmp_path / "empty.csv").touch()
    assert refused(capsys, export_dir, tmp_path, tmp_path / "empty.csv") == "--users: empty.csv: no rows"
    assert refused(capsys, export_dir, tmp_path, tmp_path / "gone.csv") == "--users: no such file: gone.csv"


# --- rows ---------------------------------------------------------------------------------------------------------

COLUMNS_OF_A_MODEL = (
    Column("age", "number"),
    Column("when", "time"),
    Column("city", "text"),
    Column("tags", "tags", "|"),
    Column("history", "history", "|"),
)


def typed(table):
    return ColumnTyper("id", COLUMNS_OF_A_MODEL, TimeParser("epoch seconds")).type_rows(table, 4096)


def test_rows_that_are_set_aside():
    table = pa.table(
        {
            "id": ["a", None, "", "tab\there", "e", "f", "g", "h"],
            "age": ["31", "1", "2", "3", "thirty", "", "nan", " 1e3 "],
            "when": ["1736500000", "1736500000", "", None, "1736500000", "yesterday", "1736500000", "1736500000"],
        }
    )
    users, bad = typed(table)
    assert users.good.tolist() == [True, False, False, False, False, False, True, True]
    assert [(each.place, each.reason) for each in bad] == [
        (4097, "no user id: column 'id' is empty"),
        (4098, "no user id: column 'id' is empty"),
        (4099, "user id with a tab, line end or NUL in column 'id'"),
        (4100, "column 'age': invalid number 'thirty' (expected a number)"),
        (
            4101,
            "column 'when': invalid time 'yesterday' (expected epoch seconds from 100000000 to 99999999999, or "
            "ISO 8601)",
        ),
    ]
    assert json.loads(bad[3].text) == {"id": "e", "age": "thirty", "when": "1736500000"}
    age = users.columns["age"].to_pylist()
    assert (age[0], age[6], age[7]) == (31.0, None, 1000.0)
    assert users.columns["when"].to_pylist()[:4] == [1736500000, 1736500000, None, None]


def test_numbers_are_written_as_in_training():
    """An integer is its decimal text, a whole float too; "" and null mean no value."""
    table = pa.table(
        {
            "id": pa.array([7, 8, 2**40], pa.int64()),
            "city": pa.array([3.0, 2.5, None], pa.float64()),
            "tags": [["a", "", None, "b"], [], None],
            "age": pa.array([1, None, 3], pa.int8()),
            "history": pa.array([[1, 2], None, [3]], pa.list_(pa.int32())),
        }
    )
    users, bad = typed(table)
    assert bad == [] and users.ids.to_pylist() == ["7", "8", str(2**40)]
    assert users.columns["city"].to_pylist() == ["3", "2.5", None]
    assert users.columns["tags"].to_pylist() == ["a|b", None, None]
    assert users.columns["age"].to_pylist() == [1.0, None, 3.0]
    assert [each or [] for each in users.columns["history"].to_pylist()] == [["1", "2"], [], ["3"]]


def test_dictionaries_and_times_of_parquet():
    table = pa.table(
        {
            "id": pa.array(["a", "b", "a", None]).dictionary_encode(),
            "when": pa.array(np.array([0, 3600, 7200, 10800], "datetime64[s]")),
            "history": pa.array(["i1|i2", None, "", "i3"]).dictionary_encode(),
            "tags": pa.array([b"x|y", b"", None, b"z"], pa.binary()),
        }
    )
    users, bad = typed(table)
    assert [each.reason for each in bad] == ["no user id: column 'id' is empty"]
    assert users.columns["when"].to_pylist() == [0, 3600, 7200, 10800]
    assert users.columns["history"].to_pylist()[0] == ["i1", "i2"]
    assert users.columns["tags"].to_pylist() == ["x|y", "", None, "z"]


def test_no_value_where_a_file_of_json_lacks_a_member(tmp_path, export_dir):
    rows = people(20)
    json_lines(tmp_path / "u.jsonl", [row if number else {**row, "age": 1} for number, row in enumerate(rows)])
    planner = Planner(Options(export_dir=export_dir, output=tmp_path / "out", users=str(tmp_path / "u.jsonl")))
    assert {column.name for column in planner._table.columns} == {
        "user_id", "country", "age", "interests", "device_type", "timestamp", "history",
    }  # fmt: skip


def test_only_the_beginning_of_a_text_is_looked_at(tmp_path, export_dir, monkeypatch):
    """A compressed file is one unit; it is not read to its end twice."""
    monkeypatch.setattr(inspect_users, "_LOOKED_AT", 20_000)
    delimited(tmp_path / "u.csv", people(3000))
    text = (tmp_path / "u.csv").read_bytes()
    with gzip.open(tmp_path / "u.csv.gz", "wb") as file:
        file.write(text)
    read = []
    opened = inspect_users.unit_reader.open_unit

    def watched(source, *rest):
        read.append(source.path.read_bytes())
        return opened(source, *rest)

    monkeypatch.setattr(inspect_users.unit_reader, "open_unit", watched)
    for name in ("u.csv", "u.csv.gz"):
        Planner(Options(export_dir=export_dir, output=tmp_path / "out", users=str(tmp_path / name)))
    assert read[0] == read[1] == text[: text[:20_000].rfind(b"\n") + 1]


def test_times_of_a_form_that_was_given():
    """The bundle's form reads, not the one that the table itself would suggest."""
    table = pa.table({"id": ["a", "b", "c"], "when": ["02.10.2025", "2025-10-02", "1736500000"]})
    users, bad = ColumnTyper("id", COLUMNS_OF_A_MODEL, TimeParser("%d.%m.%Y")).type_rows(table, 0)
    assert users.columns["when"].to_pylist() == [1759363200, None, None]
    assert [each.reason for each in bad] == [
        "column 'when': invalid time '2025-10-02' (expected text in the format %d.%m.%Y)",
        "column 'when': invalid time '1736500000' (expected text in the format %d.%m.%Y)",
    ]


def test_options_alone():
    with pytest.raises(ConfigError, match=r"--k: invalid value 0 \(expected 1 to 1000\)"):
        Options(export_dir="x", output="y", users="z", k=0).check()
