"""Tables as people have them: delimiters, compression, column orders, lists, odd names."""

from __future__ import annotations

import gzip
import random
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.errors import DataError
from twotower_tf.prepare import user_sql
from twotower_tf.tables import input_files, input_table, quarantine, readers


def load(root: Path, pattern: str) -> tuple[duckdb.DuckDBPyConnection, input_table.Table]:
    connection = duckdb.connect()
    return connection, readers.read_table(
        connection, "t", input_files.find_files(root, pattern, "data.events"), lambda name: True
    )


def content(root: Path, pattern: str) -> list[dict[str, object]]:
    connection, table = load(root, pattern)
    fields = ", ".join(column.identifier for column in table.columns.values())
    rows = connection.execute(f"SELECT {fields} FROM t ORDER BY rowid").fetchall()
    return [dict(zip(table.columns, row, strict=True)) for row in rows]


TEXTS: Mapping[str, bytes] = {
    "plain.csv": b'a,"b c"\n1,x\n,"y, ""z"""\n',
    "byte_order_mark.csv": b'\xef\xbb\xbfa,b c\n1,x\n,"y, ""z"""\n',
    "windows.csv": b'a,b c\r\n1,x\r\n,"y, ""z"""\r\n',
    "semicolon.csv": b'a;b c\n1;x\n;"y, ""z"""\n',
    "bar.csv": b'a|b c\n1|x\n|"y, ""z"""',
    "tabs.tsv": b'a\tb c\n1\tx\n\t"y, ""z"""\n',
    "lines.jsonl": b'{"a": 1, "b c": "x"}\n{"a": "", "b c": "y, \\"z\\""}\n',
    "odd [1].csv": b'a,b c\n1,x\n"",y\n',
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("packed", [False, True])
def test_text_formats(tmp_path: Path, name: str, packed: bool) -> None:
    file = name + (".gz" if packed else "")
    (tmp_path / file).write_bytes(gzip.compress(TEXTS[name]) if packed else TEXTS[name])
    last = "y" if name.startswith("odd") else 'y, "z"'
    assert content(tmp_path, file) == [{"a": "1", "b c": "x"}, {"a": None, "b c": last}]


def test_files_of_one_table_may_order_their_columns_differently(tmp_path: Path) -> None:
    (tmp_path / "day-1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "day-2.csv").write_text("b,a,c\n4,3,5\n6\n")
    (tmp_path / "day-3.csv").write_text("a,b\n7,8\n")
    assert content(tmp_path, "day-*.csv") == [
        {"a": "1", "b": "2", "c": None},
        {"a": "3", "b": "4", "c": "5"},
        {"a": "7", "b": "8", "c": None},
    ]
    connection, table = load(tmp_path, "day-*.csv")
    assert [table.locate(place) for place in range(3)] == [(0, 0), (1, 0), (2, 0)]
    assert quarantine.format_row_place(connection, table, 2) == "day-3.csv:2"
    assert [(record.source.name, record.reason) for record in table.malformed] == [
        ("day-2.csv", "1 fields, the header has 3")
    ]


def test_parquet_of_several_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "p1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": [2], "tags": [["k", "l"]]}), tmp_path / "p2.parquet")
    assert content(tmp_path, "*.parquet") == [
        {"a": 1, "b": "x", "tags": None},
        {"a": 2, "b": "y", "tags": ["k", "l"]},
    ]


def test_json_values_are_text_of_their_own_type(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(
        '{"i": 3, "f": 3.0, "g": 0.10, "e": 1e3, "t": true, "n": null, "l": ["a", "b"], "q\\"x": "s"}\n'
    )
    assert content(tmp_path, "e.jsonl") == [
        {"i": "3", "f": "3", "g": "0.1", "e": "1000", "t": "true", "n": None, "l": "a|b", 'q"x': "s"}
    ]


def test_numbers_in_json_keep_their_digits(tmp_path: Path) -> None:
    numbers = {
        "18446744073709551617": "18446744073709551617",
        "-340282366920938463463374607431768211457": "-340282366920938463463374607431768211457",
        "12345678901234567890.5": "12345678901234567890.5",
        "9007199254740993.000": "9007199254740993",
        "0.100000000000000000000": "0.1",
        "0.00001": "1e-05",  # as a client's json.loads has it
        "1.7976931348623157": "1.7976931348623157",
    }
    (tmp_path / "e.jsonl").write_text("".join(f'{{"a": {number}}}\n' for number in numbers))
    assert [row["a"] for row in content(tmp_path, "e.jsonl")] == list(numbers.values())


def test_types_for_predicates_hold_for_every_value(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("whole,real,zip,mixed,empty\n1,1.5,007,1,\n-20,2,8,x,\n,1e3,9,2,\n")
    connection, table = load(tmp_path, "e.csv")
    found = user_sql.cast_columns(connection, table, list(table.columns))
    query = f"SELECT {', '.join(f'typeof({expression})' for expression in found.values())} FROM t LIMIT 1"
    assert connection.execute(query).fetchall() == [("BIGINT", "DOUBLE", "VARCHAR", "VARCHAR", "VARCHAR")]


def test_formats_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "b.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError) as error:
        input_files.find_files(tmp_path, ".", "data.events")
    assert str(error.value) == f"data.events: {tmp_path} has files of several formats (csv, json); narrow it to one"


def test_a_directory_without_tables_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "_SUCCESS").touch()
    with pytest.raises(DataError, match=r"data\.events: no file with a known suffix \(.*\) in .*/log$"):
        input_files.find_files(tmp_path, "log", "data.events")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"^e\.parquet: cannot be read as Parquet: "):
        load(tmp_path, "*.parquet")


def test_lines_are_right_across_the_readers_blocks(tmp_path: Path) -> None:
    """Quoted line ends, blank lines and broken records strewn over a file that several threads read."""
    chance = random.Random(1)
    line, good, broken = 1, [], []
    with (tmp_path / "e.csv").open("w", newline="") as file:
        file.write("number,text\n")
        for number in range(400_000):
            kind = chance.random()
            if kind < 1e-4:
                record = chance.choice([f"{number}\n", f"{number},a,b\n", f'{number},"a"b\n'])
                broken.append(line + 1)
            elif kind < 2e-4:
                record = "\n"
            else:
                record = f'{number},"two\nlines, ""quoted"""\n' if kind < 2e-3 else f"{number},{'plain' * 5}\n"
                good.append((line + 1, number))
            file.write(record)
            line += record.count("\n")
    connection, table = load(tmp_path, "e.csv")
    places = sorted(chance.sample(range(len(good)), 200))
    found = quarantine.build_entries(connection, table, [(place, "picked") for place in places])
    picked = [(entry["line"], int(entry["text"].split(",")[0])) for entry in found if entry["reason"] == "picked"]
    assert picked == [good[place] for place in places]
    assert [entry["line"] for entry in found if entry["reason"] != "picked"] == broken
    assert table.rows == len(good)
