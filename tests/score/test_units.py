"""Units cover a file once, in order, and never cut a record."""

import csv
import gzip
import itertools
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.score.people import parquet, people
from twotower_tf.errors import DataError
from twotower_tf.score import unit_reader, units
from twotower_tf.tables.input_files import find_files


def sources(path):
    return find_files(path.parent, path.name, "--users")


def rows_of(path, tmp_path, wanted=("a", "b"), rows=64):
    """Every row of every unit, and the quarantine."""
    (source,) = sources(path)
    found, entries = [], []
    for unit in units.split_units([source]):
        with unit_reader.open_unit(source, unit, wanted, rows, tmp_path, "256MB") as opened:
            tables = list(opened.batches)
            assert [table.num_rows for table in tables[:-1]] == [rows] * (len(tables) - 1)
            found += [row for table in tables for row in table.to_pylist()]
            entries += opened.entries([])
    return found, entries


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(units, "BYTES", 700)
    monkeypatch.setattr(units, "ROWS", 500)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quoted_line_ends_are_inside_a_record(tmp_path, small, end):
    rng = random.Random(0)
    odd = ["x", 'say "hi"', f"two{end}lines", f'"{end}"{end}', ",", ""]
    written = [{"a": f"{number}", "b": rng.choice(odd)} for number in range(600)]
    with (tmp_path / "u.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["a", "b"], lineterminator=end)
        writer.writeheader()
        writer.writerows(written)
    cut = units.split_units(sources(tmp_path / "u.csv"))
    size = (tmp_path / "u.csv").stat().st_size
    assert len(cut) > 5 and cut[-1].stop == size and cut[0].start == len(f"a,b{end}")
    assert all(one.stop == two.start and one.first + one.rows == two.first for one, two in itertools.pairwise(cut))
    found, entries = rows_of(tmp_path / "u.csv", tmp_path)
    assert entries == []
    assert [(row["a"], row["b"] or "") for row in found] == [(row["a"], row["b"]) for row in written]


def test_a_stray_quote_costs_its_own_line(tmp_path, small, monkeypatch):
    monkeypatch.setattr(units, "LONGEST", 300)
    lines = [f"{number},{'v' * 20}" for number in range(300)]
    lines[100] = '100,"vvv'
    lines[200] = "200"
    (tmp_path / "u.csv").write_text("a,b\n" + "\n".join(lines) + "\n")
    found, entries = rows_of(tmp_path / "u.csv", tmp_path)
    assert [int(row["a"]) for row in found] == [number for number in range(300) if number not in (100, 200)]
    assert entries == [
        {
            "file": "u.csv",
            "line": 102,
            "reason": "a quote that is not closed or stands inside a field",
            "text": lines[100],
        },
        {"file": "u.csv", "line": 202, "reason": "1 fields, the header has 2", "text": "200"},
    ]


def test_json_lines(tmp_path, small):
    lines = [f'{{"a": "{number}", "b": "x\\" "}}' for number in range(200)]
    lines[77] = '{"a": 7'
    (tmp_path / "u.jsonl").write_text("\n".join(lines))
    assert len(units.split_units(sources(tmp_path / "u.jsonl"))) > 4
    found, entries = rows_of(tmp_path / "u.jsonl", tmp_path)
    assert [int(row["a"]) for row in found] == [number for number in range(200) if number != 77]
    assert [(entry["line"], entry["reason"]) for entry in entries] == [(78, "not a JSON object")]


@pytest.mark.parametrize(
    ("row_group_size", "bounds"),
    [
        # small row groups are joined until a unit has an eighth of the file, which is 262 rows
        (
            200,
            [
                (0, 2, 0, 400),
                (2, 4, 400, 400),
                (4, 6, 800, 400),
                (6, 8, 1200, 400),
                (8, 10, 1600, 400),
                (10, 11, 2000, 100),
            ],
        ),
        # a row group of the whole table, as pandas writes it, is cut into eight
        (
            2100,
            [
                (0, 1, first, rows)
                for first, rows in [
                    (0, 262),
                    (262, 263),
                    (525, 262),
                    (787, 263),
                    (1050, 262),
                    (1312, 263),
                    (1575, 262),
                    (1837, 263),
                ]
            ],
        ),
        # 1,800 rows cut into seven, the other 300 by themselves
        (
            1800,
            [(0, 1, 1800 * part // 7, 1800 * (part + 1) // 7 - 1800 * part // 7) for part in range(7)]
            + [(1, 2, 1800, 300)],
        ),
    ],
)
def test_row_groups_are_joined_and_cut(tmp_path, small, row_group_size, bounds):
    rows = people(2100)
    parquet(tmp_path / "u.parquet", rows, row_group_size=row_group_size)
    cut = units.split_units(sources(tmp_path / "u.parquet"))
    assert [(unit.start, unit.stop, unit.first, unit.rows) for unit in cut] == bounds
    found, _ = rows_of(tmp_path / "u.parquet", tmp_path, ("user_id", "unread"), rows=256)
    assert [row["unread"] for row in found] == list(range(2100))
    assert [row["user_id"] for row in found] == [row["user_id"] for row in rows]


def test_records_of_tf_examples(tmp_path, small):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "u.tfrecord")) as writer:
        for number in range(100):
            feature = {"a": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"%03d" % number]))}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    raw = bytearray((tmp_path / "u.tfrecord").read_bytes())
    size = len(raw) // 100
    raw[60 * size + 20] ^= 1
    (tmp_path / "u.tfrecord").write_bytes(bytes(raw))
    assert len(units.split_units(sources(tmp_path / "u.tfrecord"))) > 3
    found, entries = rows_of(tmp_path / "u.tfrecord", tmp_path, ("a",))
    assert len(found) == 99
    assert [(entry["record"], entry["reason"]) for entry in entries] == [(61, "damaged: its checksum does not match")]


def test_a_compressed_file_is_one_unit(tmp_path, small):
    with gzip.open(tmp_path / "u.csv.gz", "wt") as file:
        file.write("a,b\n" + "".join(f"{number},x\n" for number in range(1000)))
    (unit,) = units.split_units(sources(tmp_path / "u.csv.gz"))
    assert unit.whole and unit.rows == 0
    assert len(rows_of(tmp_path / "u.csv.gz", tmp_path)[0]) == 1000


def test_partitions_are_columns(tmp_path):
    for day, suffix in (("20260101", "parquet"), ("20260102", "parquet")):
        directory = tmp_path / f"country={day}"
        directory.mkdir()
        pq.write_table(pa.table({"user_id": [f"u{day}"]}), directory / f"p.{suffix}")
    found = []
    every = find_files(tmp_path, ".", "--users")
    for unit in units.split_units(every):
        with unit_reader.open_unit(every[unit.file], unit, ["user_id", "country"], 10, tmp_path, "1GB") as opened:
            found += [row for table in opened.batches for row in table.to_pylist()]
    assert found == [{"user_id": f"u{day}", "country": day} for day in ("20260101", "20260102")]


def test_what_is_no_parquet(tmp_path):
    (tmp_path / "u.parquet").write_bytes(b"PAR1 not at all")
    with pytest.raises(DataError, match="u.parquet: cannot be read as Parquet"):
        units.split_units(sources(tmp_path / "u.parquet"))


def test_nothing_is_no_unit(tmp_path):
    (tmp_path / "u.csv").write_text("a,b\n")
    assert units.split_units(sources(tmp_path / "u.csv")) == []
    pq.write_table(pa.table({"a": np.empty(0)}), tmp_path / "u.parquet")
    assert units.split_units(sources(tmp_path / "u.parquet")) == []
