"""Files as shops and publishers write them: odd delimiters, quotes, encodings, line ends, JSON layouts, shard names."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.config import TextFormat
from twotower_tf.errors import DataError
from twotower_tf.tables import input_files, quarantine, readers
from twotower_tf.tables.detect_format import DetectedFormat, detect_format
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.read_options import ReadOptions
from twotower_tf.tables.row_sample import sample_file


def load(root: Path, pattern: str, options: ReadOptions) -> tuple[duckdb.DuckDBPyConnection, Table]:
    connection = duckdb.connect(config={"temp_directory": str(root / "tmp" / "spill")})
    sources = input_files.find_files(root, pattern, "data.events", options)
    return connection, readers.read_table(connection, "t", sources, lambda name: True)


def content(root: Path, pattern: str, options: ReadOptions = ReadOptions()) -> list[dict[str, Any]]:  # noqa: B008
    connection, table = load(root, pattern, options)
    fields = ", ".join(column.identifier for column in table.columns.values())
    rows = connection.execute(f"SELECT {fields} FROM t ORDER BY rowid").fetchall()
    assert not table.malformed
    return [dict(zip(table.columns, row, strict=True)) for row in rows]


def of(**text: Any) -> ReadOptions:
    return ReadOptions(text=TextFormat(**text))


EXPECTED = [{"id": "1", "name": "Émile, x"}, {"id": "2", "name": 'so "y"'}]
FIRST, SECOND = '{"id": 1, "name": "Émile\\u002C x"}', '{"id": 2, "name": "so \\"y\\""}'
FORMS: Mapping[str, tuple[str, bytes, ReadOptions]] = {
    "double colons": ("log.dat", 'id::name\n1::Émile, x\n2::so "y"\n'.encode(), ReadOptions()),
    "bars in .data": ("log.data", 'id|name\n1|Émile, x\n2|so "y"\n'.encode(), ReadOptions()),
    "tabs in .txt": ("log.txt", 'id\tname\r\n1\tÉmile, x\r\n2\tso "y"\r\n'.encode(), ReadOptions()),
    "aligned": (
        "log.txt", '  id  name\r\n   1  "Émile, x"\n  2\t "so ""y"""  \n'.encode(), of(delimiter="\\s+")
    ),
    "no known suffix": ("u.item", 'id|name\n1|Émile, x\n2|so "y"\n'.encode(), ReadOptions()),
    "Hive's delimiter": ("log.txt", 'id\x01name\n1\x01Émile, x\n2\x01so "y"'.encode(), ReadOptions()),
    "latin-1": ("log.csv", 'id;name\n1;Émile, x\n2;"so ""y"""\n'.encode("latin-1"), of(encoding="latin-1")),
    "UTF-16": ("log.tsv", 'id\tname\r\n1\tÉmile, x\r\n2\t"so ""y"""\r\n'.encode("utf-16"), ReadOptions()),
    "returns": ("log.csv", 'id,name\r1,"Émile, x"\r2,"so ""y"""'.encode(), ReadOptions()),
    "returns, packed": ("log.csv.gz", gzip.compress('id,name\r1,"Émile, x"\r2,"so ""y"""\r'.encode()), ReadOptions()),
    "backslashes": ("log.csv", 'id;name\n"1";"Émile, x"\n"2";"so \\"y\\""\n'.encode(), of(escape="\\")),
    "apostrophes": ("log.csv", "id,name\n1,'Émile, x'\n2,'so \"y\"'\n".encode(), of(quote="'")),
    "no quoting": ("log.tsv", 'id\tname\n1\tÉmile, x\n2\tso "y"\n'.encode(), of(quote="")),
    "an index column": ("log.csv", ',id,name\n0,1,"Émile, x"\n1,2,"so ""y"""\n'.encode(), ReadOptions()),
    "a last delimiter": ("log.csv", 'id,name,\n1,"Émile, x",\n2,"so ""y""",\n'.encode(), ReadOptions()),
    "a JSON array": ("log.jsonl", f"[{FIRST},\n {SECOND}]".encode(), ReadOptions()),
    "a JSON array in one line": ("log.json", f"[{FIRST},{SECOND}]".encode(), ReadOptions()),
    "JSON over lines": ("log.json", f"{FIRST}\n{SECOND}\n".replace(", ", ",\n  ").encode(), ReadOptions()),
    "JSON lines in UTF-16": ("log.jsonl", f"{FIRST}\n{SECOND}".encode("utf-16"), ReadOptions()),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    name, text, options = FORMS[form]
    (tmp_path / name).write_bytes(text)
    assert content(tmp_path, name, options) == EXPECTED
    (source,) = input_files.find_files(tmp_path, name, "data.events", options)
    sample = sample_file(source, tmp_path)  # validation reads the same
    connection = duckdb.connect(config={"temp_directory": str(tmp_path / "tmp" / "spill")})
    assert readers.read_table(connection, "t", [sample], lambda column: True).rows == 2


def test_text_without_quoting_keeps_its_quotes(tmp_path: Path) -> None:
    (tmp_path / "items.tsv").write_text('id\tname\n1\t"Weird" Al\n2\t"Heroes"\n3\t12" single\n')
    assert [row["name"] for row in content(tmp_path, "items.tsv", of(quote=""))] == [
        '"Weird" Al',
        '"Heroes"',
        '12" single',
    ]


def test_decimal_commas_are_read_as_points(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("id;price;tags\n1;12,50;a,b\n2;-0,5;1,5\n3;7;\n")
    assert content(tmp_path, "log.csv", of(decimal=",")) == [
        {"id": "1", "price": "12.50", "tags": "a,b"},
        {"id": "2", "price": "-0.5", "tags": "1.5"},
        {"id": "3", "price": "7", "tags": None},
    ]


MARKED = ReadOptions(null_values=("\\N", "nan", "None"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_markers_of_missing_values(tmp_path: Path, kind: str) -> None:
    """They are whole values, in lists too; a text that contains one is a text."""
    rows = [{"a": "\\N", "b": "x"}, {"a": "None", "b": "nan"}, {"a": "Nones", "b": "\\N|y"}]
    path = tmp_path / f"log.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("a", "b")}), path)
    elif kind == "csv":
        path.write_text("a,b\n" + "".join(f"{row['a']},{row['b']}\n" for row in rows))
    else:
        path.write_text("".join(str(row).replace("'", '"') + "\n" for row in rows))
    found = content(tmp_path, path.name, MARKED)
    assert [row["a"] for row in found] == [None, None, "Nones"]
    assert [row["b"] for row in found] == ["x", None, "\\N|y"]


def test_markers_within_lists(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": ["x", "None", "y"]}\n')
    pq.write_table(pa.table({"a": [["x", "None", "y"]]}), tmp_path / "log.parquet")
    assert content(tmp_path, "log.jsonl", MARKED) == [{"a": "x|y"}]
    assert content(tmp_path, "log.parquet", MARKED) == [{"a": ["x", None, "y"]}]  # null elements are dropped


def test_names_of_shards(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "part.csv-00001-of-00003").write_text("a\n2\n")
    (tmp_path / "log" / "part.csv-00000-of-00003").write_text("a\n1\n")
    (tmp_path / "log" / "part-00002-of-00003").write_text("a\n3\n")
    (tmp_path / "log" / "notes.md").write_text("a\n9\n")
    (tmp_path / "log" / "README.txt").write_text("a\n9\n")
    assert [row["a"] for row in content(tmp_path, "log")] == ["3", "1", "2"]
    assert input_files.find_unread_files(tmp_path, "log") == ["log/README.txt", "log/notes.md"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_names_of_compressed_shards(kind: str, tmp_path: Path) -> None:
    """The suffix of the compression may stand before the number of the shard; plain shards may be among them."""
    for number, name in enumerate((f"{kind}.gz-00000-of-00003", f"{kind}-00001-of-00003.gz", f"{kind}-00002-of-00003")):
        text = f"a\n{number}\n" if kind == "csv" else f'{{"a": {number}}}\n'
        packed = gzip.compress(text.encode()) if "gz" in name else text.encode()
        (tmp_path / f"log.{name}").write_bytes(packed)
    assert [row["a"] for row in content(tmp_path, "log.*")] == ["1", "2", "0"]
    assert input_files.estimate_text_bytes(input_files.find_files(tmp_path, "log.*gz-*", "x")) == 4 * len(
        (tmp_path / f"log.{kind}.gz-00000-of-00003").read_bytes()
    )


def test_links_to_directories_are_followed_and_circles_end(tmp_path: Path) -> None:
    for day in ("a", "b"):
        (tmp_path / "archive" / f"dt={day}").mkdir(parents=True)
        (tmp_path / "archive" / f"dt={day}" / "x.csv").write_text(f"v\n{day}\n")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "dt=b").symlink_to("../archive/dt=b")
    (tmp_path / "log" / "dt=c").symlink_to("../archive/dt=a")
    (tmp_path / "log" / "again").symlink_to(".")
    (tmp_path / "log" / "one.csv").symlink_to("../archive/dt=a/x.csv")
    assert content(tmp_path, "log") == [
        {"v": "b", "dt": "b"},
        {"v": "a", "dt": "c"},
        {"v": "a", "dt": None},
    ]


def test_names_of_directories_are_decoded_as_hive_writes_them(tmp_path: Path) -> None:
    values = {"a%2Fb": "a/b", "C%C3%B4te d%27Ivoire": "Côte d'Ivoire", "__HIVE_DEFAULT_PARTITION__": None}
    for number, name in enumerate(values):
        (tmp_path / "log" / f"region={name}").mkdir(parents=True)
        (tmp_path / "log" / f"region={name}" / "x.csv").write_text(f"n\n{number}\n")
    connection, table = load(tmp_path, "log", ReadOptions())
    rows = connection.execute(f"SELECT {table.text('n')}, {table.text('region')} FROM t").fetchall()
    assert {values_of: region for values_of, region in rows} == {
        str(number): region for number, region in enumerate(values.values())
    }


def test_an_array_names_its_bad_records(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('[{"a": 1},\n 7, {"a": 3}]')
    connection, table = load(tmp_path, "log.json", ReadOptions())
    assert quarantine.build_entries(connection, table, [(1, "no good")]) == [
        {"file": "log.json", "record": 2, "reason": "not a JSON object", "text": "7"},
        {"file": "log.json", "record": 3, "reason": "no good", "text": '{"a": "3"}'},
    ]


def test_an_array_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text('[{"a": 1}, {"a"')
    with pytest.raises(DataError, match=r"^log\.json: cannot be read: .*Malformed JSON"):
        load(tmp_path, "log.json", ReadOptions())


def test_lines_of_bad_rows_in_converted_files(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes("a,b\ré,x\ré\ré,y\r".encode("latin-1"))
    connection, table = load(tmp_path, "log.csv", of(encoding="latin-1"))
    assert quarantine.build_entries(connection, table, [(1, "no good")]) == [
        {"file": "log.csv", "line": 3, "reason": "1 fields, the header has 2", "text": "é"},
        {"file": "log.csv", "line": 4, "reason": "no good", "text": "é,y"},
    ]


def test_lines_of_bad_rows_in_aligned_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a   b\n\n 1   2\n 3\n10  20\n")
    connection, table = load(tmp_path, "log.csv", of(delimiter="\\s+"))
    assert quarantine.build_entries(connection, table, [(1, "no good")]) == [
        {"file": "log.csv", "line": 4, "reason": "1 fields, the header has 2", "text": "3"},
        {"file": "log.csv", "line": 5, "reason": "no good", "text": "10\t20"},
    ]


# --- detection ------------------------------------------------------------------------------------------------------


def detect(root: Path, name: str, text: str | bytes, options: ReadOptions = ReadOptions()) -> DetectedFormat:  # noqa: B008
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    (source,) = input_files.find_files(root, name, "--events", options)
    return detect_format(source)


@pytest.mark.parametrize("form", [form for form in FORMS if "JSON" not in form])
def test_detected_options_read_the_file(tmp_path: Path, form: str) -> None:
    name, text, _ = FORMS[form]
    found = detect(tmp_path, name, text)
    assert found.header
    assert content(tmp_path, name, found.options) == EXPECTED


def numbered(lines: Sequence[str], header: str = "") -> str:
    return "\n".join([*([header] if header else []), *lines]) + "\n"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["196\t242\t3\t881250949", "186\t302\t3\t891717742"], "the first line has the value '196' where a header"),
        (["u1\ti1\tview", "u2\ti2\tbuy", "u1\ti3\tview"], "'u1' of the first line occurs again in its column"),
        (["1 5", "1 7", "2 5"], "the first line has the value '1' where a header"),
    ],
)
def test_a_first_line_that_is_a_row(tmp_path: Path, lines: list[str], reason: str) -> None:
    found = detect(tmp_path, "log.txt", numbered(lines))
    assert not found.header
    assert found.reason.startswith(reason)
    assert found.first == tuple(lines[0].replace("\t", " ").split())
    assert len(found.rows) == len(lines)


@pytest.mark.parametrize(
    "header",
    ["user,item,time", "user,0,1", "user,item,2020", "user,item,view"],  # a repeated header is one, too
)
def test_a_first_line_that_is_a_header(tmp_path: Path, header: str) -> None:
    lines = [f"{number},{number % 3},{number}" for number in range(9)]
    found = detect(tmp_path, "log.csv", numbered([*lines, header], header))
    assert (found.header, found.reason) == (True, "")


def test_given_names_choose_the_delimiter(tmp_path: Path) -> None:
    text = numbered(["1,a;2;3", "2,b;3;4"])
    columns = ReadOptions(columns=("a", "b", "c"))
    assert detect(tmp_path, "log.csv", text, columns).options.delimiter == ";"
    assert content(tmp_path, "log.csv", columns)[0] == {"a": "1,a", "b": "2", "c": "3"}


def test_decimal_commas_and_markers_are_detected(tmp_path: Path) -> None:
    rows = [f"{number};{number},5;{marker};a,b" for number, marker in enumerate(["\\N", "x", "NULL", "y"] * 5)]
    found = detect(tmp_path, "log.csv", numbered(rows, "id;price;kind;tags"))
    assert found.options == ReadOptions((), TextFormat(delimiter=";", decimal=","), ("\\N", "NULL"))
    assert found.markers == (("\\N", 2, 0.25), ("NULL", 2, 0.25))


def test_aligned_columns_are_detected(tmp_path: Path) -> None:
    """Not where a tab, a comma or a single blank divides the lines; a gap between tabs is a missing value."""
    aligned = ["  1   10  7.5", " 12    3  8", "  3   22  9.5"]
    assert detect(tmp_path, "a.txt", numbered(aligned, "user item score")).options.text.delimiter == "\\s+"
    assert detect(tmp_path, "b.data", numbered(aligned)).rows[1] == ("12", "3", "8")
    assert detect(tmp_path, "c.csv", numbered(["u1  i1", "u2  i2"], "user  item")).first == ("user", "item")
    assert detect(tmp_path, "d.txt", numbered(["u1 i1", "u2 i2"], "user item")).options.text.delimiter == " "
    assert detect(tmp_path, "e.txt", numbered(["1\t\t2", "1\t3\t4"], "a\tb\tc")).options.text.delimiter == "\t"
    assert detect(tmp_path, "f.csv", numbered(["1,a  b,", "2,a  c,x"], "id,two words,z")).options.text.delimiter == ""


def test_a_broken_line_does_not_change_the_quotes(tmp_path: Path) -> None:
    """One bad line among quoted ones: it would be whole without quoting, and all the others would keep their quotes."""
    rows = [f'"{number}","x"' for number in range(50)]
    found = detect(tmp_path, "log.csv", numbered([*rows, '"51","12" x"'], '"id","name"'))
    assert found.options.text.quote == '"'


def test_lists_are_recognised(tmp_path: Path) -> None:
    found = detect(tmp_path, "train.txt", "1 7 9\n2 9\n3 8 1 2\n4 7 7 1\n")
    assert (found.lists, found.header, found.first) == (True, False, ("1", "7", "9"))
    assert not detect(tmp_path, "pairs.txt", "1 7\n1 9\n2 7\n").lists
    assert not detect(tmp_path, "titles.txt", "item title\n1 The Big Sleep\n2 Heat\n3 Up & Down\n").lists


def test_an_encoding_that_shows_late(tmp_path: Path) -> None:
    lines = [f"{number};plain" for number in range(5_000)]
    found = detect(tmp_path, "log.csv", numbered([*lines, "5001;caf\xe9"], "id;name").encode("latin-1"))
    assert found.options.text.encoding == "latin-1"
