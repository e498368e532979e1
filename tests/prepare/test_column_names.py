"""Columns with names that nobody asks for, whatever they are, change nothing; those that are asked for work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tensorflow.core.example import example_pb2

from tests.prepare.test_key_columns import experiment
from tests.tables.test_tfrecords import write as write_records
from twotower_tf.config import Hash, Numeric, RandomSplit, TrainConfig
from twotower_tf.errors import DataError
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables.duckdb_engine import open_engine

ODD = [
    "",
    "*",
    '"',
    "'",
    "a.b",
    "a/b",
    "~0",
    "$",
    "line\nend",
    "tab\t",
    "filename",
    "source",
    "rowid",
    "c0",
    "n" * 3000,
]
ROWS = [{"user": f"u{n % 3}", "item": f"i{n % 4}", "time": n, "click": 1} for n in range(12)]
ITEMS = [{"item": f"i{n}", "price": n + 0.5} for n in range(4)]


def write(path: Path, rows: list[dict[str, Any]], suffix: str) -> None:
    path = path.with_suffix(suffix)
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".parquet":
        names = list(rows[0])
        pq.write_table(pa.Table.from_arrays([pa.array([row[name] for row in rows]) for name in names], names), path)
    else:
        records = []
        for row in rows:
            example = example_pb2.Example()
            for name, value in row.items():
                if isinstance(value, str | bytes):
                    value = value.encode() if isinstance(value, str) else value
                    example.features.feature[name].bytes_list.value.append(value)
                elif isinstance(value, float):
                    example.features.feature[name].float_list.value.append(value)
                else:
                    example.features.feature[name].int64_list.value.append(value)
            records.append(example.SerializeToString())
        write_records(path, records)


def catalogue(root: Path, suffix: str, features: tuple[Any, ...] = (Numeric("price"),), **data: Any) -> pa.Table:
    fields = {"events": f"events{suffix}", "items": f"items{suffix}", "split": RandomSplit(0, 0)} | data
    config = dataclasses.replace(
        experiment(root, **fields),
        item_features=(Hash("item", buckets=10), *features),
        train=TrainConfig(batch_size=4),
    )
    with open_engine(root / "work", "1GB", 1, directories=[root]) as connection:
        (root / "work" / "samples").mkdir()
        assert validate_tables(connection, config, root / "work" / "samples").problems == []
    assert prepare_log(config, root / "run")["rows"] == {"read": 12, "used": 12, "excluded": {}, "quarantined": 0}
    return Prepared.open(root / "run").items()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tfrecord"])
def test_odd_names_change_nothing(tmp_path: Path, suffix: str) -> None:
    more = {name: f"x{number}" for number, name in enumerate(ODD)}
    write(tmp_path / "events", [{**row, **more} for row in ROWS], suffix)
    write(tmp_path / "items", [{**row, **more} for row in ITEMS], suffix)
    items = catalogue(tmp_path, suffix)
    assert items.column("price").to_pylist() == [0.5, 1.5, 2.5, 3.5]
    named = [name for name in ODD if name]
    assert set(named) <= set(items.column_names)
    for number, name in enumerate(ODD):
        if name:
            assert items.column(name).to_pylist() == [f"x{number}"] * 4


@pytest.mark.parametrize("name", [name for name in ODD if name])
def test_odd_names_that_json_rows_use(tmp_path: Path, name: str) -> None:
    write(tmp_path / "events", ROWS, ".jsonl")
    write(tmp_path / "items", [{**row, name: f"v{row['item']}"} for row in ITEMS], ".jsonl")
    items = catalogue(tmp_path, ".jsonl", (Hash(name, buckets=10),))
    assert items.column(name).to_pylist() == ["vi0", "vi1", "vi2", "vi3"]


def test_one_odd_json_row_among_others(tmp_path: Path) -> None:
    write(tmp_path / "events", ROWS[:-1], ".jsonl")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"user": "u0", "": 1, "*": 2, "nul\\u0000": 3, "click": 1, "click": 7, "item": "i0", "time": 9}\n')
    write(tmp_path / "items", ITEMS, ".jsonl")
    assert len(catalogue(tmp_path, ".jsonl")) == 4


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".tfrecord"])
def test_names_that_differ_in_case_keep_their_values(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "events", ROWS, suffix)
    write(tmp_path / "items", [{"Price": "dear", **row, "PRICE": "cheap"} for row in ITEMS], suffix)
    items = catalogue(tmp_path, suffix)
    assert items.column("price").to_pylist() == [0.5, 1.5, 2.5, 3.5]
    assert items.column("Price").to_pylist() == ["dear"] * 4 and items.column("PRICE").to_pylist() == ["cheap"] * 4


def test_parquet_files_whose_columns_differ_in_case_and_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    write(tmp_path / "events", ROWS, ".parquet")
    write(tmp_path / "items" / "a", [{**row, "Price": "dear"} for row in ITEMS], ".parquet")
    write(tmp_path / "items" / "b", [{"Price": "dear", **row} for row in ITEMS], ".parquet")
    message = r"^items/b\.parquet: columns 'price' and 'Price' differ in case only"
    with pytest.raises(DataError, match=message):
        prepare_log(
            experiment(tmp_path, events="events.parquet", items="items", split=RandomSplit(0, 0)), tmp_path / "run"
        )


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_upper_case_columns(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "events", [{name.upper(): value for name, value in row.items()} for row in ROWS], suffix)
    write(tmp_path / "items", [{"ITEM_ID": row["item"], "PRICE": row["price"]} for row in ITEMS], suffix)
    rows = [{"ITEM_ID" if name == "item" else name.upper(): value for name, value in row.items()} for row in ROWS]
    write(tmp_path / "events", rows, suffix)
    fields = {"user_id": "USER", "item_id": "ITEM_ID", "timestamp": "TIME", "label": "CLICK"}
    config = experiment(tmp_path, events=f"events{suffix}", items=f"items{suffix}", split=RandomSplit(0, 0), **fields)
    features = (Hash("ITEM_ID", buckets=10), Numeric("PRICE"))
    config = dataclasses.replace(config, item_features=features, user_features=(Hash("USER", buckets=10),))
    prepare_log(config, tmp_path / "run")
    items = Prepared.open(tmp_path / "run").items()
    assert items.column("item_id").to_pylist() == items.column("ITEM_ID").to_pylist() == ["i0", "i1", "i2", "i3"]
    assert items.column("PRICE").to_pylist() == [0.5, 1.5, 2.5, 3.5]


def test_a_tfrecord_feature_that_is_no_text_matters_only_where_it_is_used(tmp_path: Path) -> None:
    write(tmp_path / "events", [{**row, "thumbnail": b"\xff\xd8\xff"} for row in ROWS], ".tfrecord")
    write(tmp_path / "items", ITEMS, ".tfrecord")
    assert len(catalogue(tmp_path, ".tfrecord")) == 4
    named = bytearray((tmp_path / "events.tfrecord").read_bytes())
    assert b"thumbnail" in named
    config = experiment(tmp_path, events="events.tfrecord", split=RandomSplit(0, 0))
    config = dataclasses.replace(config, user_features=(Hash("thumbnail", buckets=10),))
    with pytest.raises(DataError, match=r"none of 12 records can be read; .*feature 'thumbnail': not UTF-8$"):
        prepare_log(config, tmp_path / "again")


def test_a_tfrecord_feature_whose_name_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / "events", [{**row, "caf\u00e9": 1} for row in ROWS], ".tfrecord")
    records = []
    for row in ROWS:
        example = example_pb2.Example()
        example.features.feature["user"].bytes_list.value.append(row["user"].encode())
        example.features.feature["item"].bytes_list.value.append(row["item"].encode())
        example.features.feature["time"].int64_list.value.append(row["time"])
        example.features.feature["click"].int64_list.value.append(1)
        example.features.feature["cafXY"].int64_list.value.append(1)
        records.append(example.SerializeToString().replace(b"cafXY", b"caf\xe9Y"))
    write_records(tmp_path / "events.tfrecord", records)
    write(tmp_path / "items", ITEMS, ".tfrecord")
    assert len(catalogue(tmp_path, ".tfrecord")) == 4


@pytest.mark.parametrize("kind", ["struct", "list of lists", "map"])
def test_nested_values_are_refused_where_they_are_used(tmp_path: Path, kind: str) -> None:
    value: Any = {"struct": {"os": "a"}, "list of lists": [["a"], ["b"]], "map": [("a", 1)]}[kind]
    form = pa.map_(pa.string(), pa.int64()) if kind == "map" else None
    table = pa.Table.from_pylist(ROWS).append_column("x", pa.array([value] * len(ROWS), form))
    pq.write_table(table, tmp_path / "events.parquet")
    config = experiment(tmp_path, events="events.parquet", split=RandomSplit(0, 0))
    prepare_log(config, tmp_path / "run")
    config = dataclasses.replace(config, user_features=(Hash("x", buckets=10),))
    message = r"^user_features: column 'x' in events\.parquet: invalid type .* .expected a value or a list of values.$"
    with pytest.raises(DataError, match=message):
        prepare_log(config, tmp_path / "again")


def test_empty_lines_before_a_header_are_read_over_and_a_file_of_them_is_empty(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a.csv").write_text("user,item,time,click\nu,i,1,1\n")
    (tmp_path / "log" / "b.csv").write_text("\n\r\n")
    config = experiment(tmp_path, events="log", split=RandomSplit(0, 0))
    assert prepare_log(config, tmp_path / "run")["rows"]["read"] == 1
    for ends in ("\n", "\r\n", "\r"):
        lines = ["", "", "user,item,time,click", "u,j,1,1", "", "u,j,yesterday,1", 'u,"k', 'l",2,1']
        (tmp_path / "log" / "b.csv").write_bytes(("\ufeff" + ends.join(lines) + ends).encode())
        manifest = prepare_log(config, tmp_path / "again")
        assert manifest["rows"] == {"read": 4, "used": 2, "excluded": {}, "quarantined": 2}
        entries = (tmp_path / "again/prepared/quarantine.jsonl").read_text().splitlines()
        assert [(entry["line"], entry["file"]) for entry in map(json.loads, entries)] == [
            (6, "log/b.csv"), (7, "log/b.csv"),
        ]  # fmt: skip


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with open(bytes(tmp_path / "log") + b"/caf\xe9.csv", "w") as file:
        file.write("user,item,time,click\nu,i,1,1\n")
    with pytest.raises(
        DataError, match=r"^data\.events: .*/log/caf\\xe9\.csv: the file's name is not UTF-8; rename it$"
    ):
        prepare_log(experiment(tmp_path, events="log", split=RandomSplit(0, 0)), tmp_path / "run")
