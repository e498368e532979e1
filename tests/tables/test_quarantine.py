"""Bad input as a user meets it: each bad row with its line and reason, each unusable input with one clear message."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.config import DataConfig, ExperimentConfig, GivenSplit, Hash, Numeric, RandomSplit, TimeSplit
from twotower_tf.errors import DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables import timestamps


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    fields = {
        "user_id": "user",
        "item_id": "item",
        "timestamp": "time",
        "label": "label",
        "split": RandomSplit(0.0, 0.0),
    }
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), **(fields | data)),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("user", buckets=10),),
    )


def quarantined(root: Path) -> list[dict[str, Any]]:
    text = (root / "run" / "prepared" / "quarantine.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


BROKEN_CSV = (
    b"user,item,time,label,note\n"
    b'a,x,100,1,"two\nlines"\n'  # lines 2 and 3
    b"a,y,101,1\n"  # 4: a field short
    b"\n"  # 5
    b"a,y,102,1,ok,more,most\n"  # 6: a field too many
    b"a,y,yesterday,1,ok\n"  # 7
    b"a,y,103,2,ok\n"  # 8
    b"a,y,103,,ok\n"  # 9
    b",y,104,1,ok\n"  # 10
    b"a,,105,1,ok\n"  # 11
    b'"a\tb",y,106,1,ok\n'  # 12
    b'a,"y\nz",107,1,ok\n'  # 13 and 14
    b"a,y\x00,108,1,ok\n"  # 15
    b"a,\xff\xfe,109,1,ok\n"  # 16
    b'a,"y"z,110,1,ok\n'  # 17
    b'a,y,111,0,"say ""hi"""\n'  # 18
    b'b,y,112,true,5" disk\n'  # 19
    b"b,x,113,0.0,last"  # 20, without a line end
)

BROKEN_CSV_ENTRIES = [
    (4, "4 fields, the header has 5", "a,y,101,1"),
    (6, "7 fields, the header has 5", "a,y,102,1,ok,more,most"),
    (7, "time 'yesterday' is not epoch seconds", "a,y,yesterday,1,ok"),
    (8, "label '2' is not 0 or 1", "a,y,103,2,ok"),
    (9, "no label", "a,y,103,,ok"),
    (10, "no user id: column 'user' is empty", ",y,104,1,ok"),
    (11, "no item id: column 'item' is empty", "a,,105,1,ok"),
    (12, "user id with a tab, line end or NUL in column 'user'", '"a\tb",y,106,1,ok'),
    (13, "item id with a tab, line end or NUL in column 'item'", 'a,"y\nz",107,1,ok'),
    (15, "item id with a tab, line end or NUL in column 'item'", "a,y\x00,108,1,ok"),
    (16, "not UTF-8", "a,\ufffd\ufffd,109,1,ok"),
    (17, "a quote that is not closed or stands inside a field", 'a,"y"z,110,1,ok'),
]


@pytest.mark.parametrize("name", ["events.csv", "events.csv.gz"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_every_bad_row_is_named_by_its_first_line(tmp_path: Path, name: str, line_end: bytes) -> None:
    content = BROKEN_CSV.replace(b"\n", line_end)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    manifest = prepare_log(experiment(tmp_path, events=name), tmp_path / "run")
    assert manifest["rows"] == {"read": 16, "used": 4, "excluded": {}, "quarantined": 12}
    assert [(entry["line"], entry["reason"], entry["text"]) for entry in quarantined(tmp_path)] == [
        (line, reason, text.replace("\n", line_end.decode())) for line, reason, text in BROKEN_CSV_ENTRIES
    ]
    assert {entry["file"] for entry in quarantined(tmp_path)} == {name}
    train = Prepared.open(tmp_path / "run").columns("train", ["timestamp", "label"])
    assert train["timestamp"].tolist() == [100, 111, 112, 113]
    assert train["label"].tolist() == [1, 0, 1, 0]


def test_lines_of_json(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(
        b'{"user": "a", "item": 1, "time": 5, "label": 1}\n'
        b"\n"
        b'{"user": "a", "item"\n'
        b"[1, 2]\n"
        b'{"user": "a", "item": null, "time": 5, "label": 1}\n'
        b'{"user": "\xff", "item": 2, "time": 5, "label": 1}\n'
        b'{"item": 2.0, "user": "b", "label": true, "time": "6"}\n'
    )
    manifest = prepare_log(experiment(tmp_path, events="events.jsonl"), tmp_path / "run")
    assert manifest["rows"] == {"read": 6, "used": 2, "excluded": {}, "quarantined": 4}
    assert [(entry["line"], entry["reason"]) for entry in quarantined(tmp_path)] == [
        (3, "not a JSON object"),
        (4, "not a JSON object"),
        (5, "no item id: column 'item' is empty"),
        (6, "not UTF-8"),
    ]
    assert Prepared.open(tmp_path / "run").item_ids().tolist() == ["1", "2"]


def test_a_reason_is_one_short_line(tmp_path: Path) -> None:
    bad = [f'a,y,5,"{value}"' for value in ("1\n2", "\x1b[2J", "é" * 5000)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,time,label", *bad, "a,x,5,1", "a,x,6,1", "b,x,5,1"]))
    prepare_log(experiment(tmp_path, events="events.csv"), tmp_path / "run")
    assert [entry["reason"] for entry in quarantined(tmp_path)] == [
        "label '1\\u000a2' is not 0 or 1",
        "label '\\u001b[2J' is not 0 or 1",
        f"label '{'é' * 100}' is not 0 or 1",
    ]


def test_json_has_no_nan(tmp_path: Path) -> None:
    """As a word in a text it is one; as a value it is invalid JSON, wherever it stands."""
    (tmp_path / "events.jsonl").write_text(
        '{"user": "NaN", "item": "a \\" inf, NaN", "time": 5, "label": 1}\n'
        '{"user": "a", "item": "x", "time": NaN, "label": 1}\n'
        '{"user": "a", "item": "x", "time": 5, "label": 1, "unread": [1, -Infinity]}\n'
        '{"user": "a", "item": "x", "time": 5, "label": nan}\n'
        '{"user": "b", "item": "banana", "time": 6, "label": 1}\n'
    )
    manifest = prepare_log(experiment(tmp_path, events="events.jsonl"), tmp_path / "run")
    assert manifest["rows"] == {"read": 5, "used": 2, "excluded": {}, "quarantined": 3}
    reason = "NaN or Infinity, which JSON does not have"
    assert [(entry["line"], entry["reason"]) for entry in quarantined(tmp_path)] == [
        (line, reason) for line in (2, 3, 4)
    ]
    assert Prepared.open(tmp_path / "run").item_ids().tolist() == ['a " inf, NaN', "banana"]


def test_rows_of_parquet(tmp_path: Path) -> None:
    for part, users in enumerate((["a", None], ["b\n", "c"])):
        table = pa.table({"user": users, "item": [3.0, 4.0], "time": [1, 2], "label": [True, False]})
        pq.write_table(table, tmp_path / f"part-{part}.parquet")
    manifest = prepare_log(experiment(tmp_path, events="part-*.parquet"), tmp_path / "run")
    assert manifest["rows"] == {"read": 4, "used": 2, "excluded": {}, "quarantined": 2}
    assert quarantined(tmp_path) == [
        {
            "file": "part-0.parquet",
            "row": 2,
            "reason": "no user id: column 'user' is empty",
            "text": '{"user": null, "item": "4.0", "time": "2", "label": "false"}',
        },
        {
            "file": "part-1.parquet",
            "row": 1,
            "reason": "user id with a tab, line end or NUL in column 'user'",
            "text": '{"user": "b\\n", "item": "3.0", "time": "1", "label": "true"}',
        },
    ]
    assert Prepared.open(tmp_path / "run").item_ids().tolist() == ["3", "4"]


def test_bad_rows_of_item_tables_are_set_aside_too(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time,label\na,x,1,1\n")
    (tmp_path / "items.csv").write_text("item,price\nx,1\n,2\ny,1,1\n")
    manifest = prepare_log(experiment(tmp_path, items="items.csv"), tmp_path / "run")
    assert manifest["rows"]["quarantined"] == 0
    assert manifest["tables"]["items"] == {"read": 3, "used": 1, "duplicates": 0, "quarantined": 2}
    assert [(entry["file"], entry["line"]) for entry in quarantined(tmp_path)] == [("items.csv", 3), ("items.csv", 4)]


def test_a_row_without_a_time_cannot_be_split_by_time(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user,item,time,label\na,x,1,1\na,x,,1\na,x,2,1\n")
    prepare_log(experiment(tmp_path, split=TimeSplit(valid_fraction=0, test_fraction=0.3)), tmp_path / "run")
    assert [(entry["line"], entry["reason"]) for entry in quarantined(tmp_path)] == [
        (3, "no time: column 'time' is empty")
    ]


GOOD = "user,item,time,label,split\na,x,1,1,train\na,y,2,0,test\n"

UNUSABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing file": ("", {"events": "clicks.csv"}, "data.events: no such file: {root}/clicks.csv"),
    "glob without files": ("", {"events": "day-*.csv"}, "data.events: no file matches {root}/day-*.csv"),
    "unknown format": (
        "x\0y",
        {"events": "events.xls"},
        "data.events: {root}/events.xls: unknown format '.xls'; known: .csv, .tsv, .txt, .dat, .data, .parquet, ",
    ),
    "missing column": (
        GOOD,
        {"timestamp": "tme"},
        "data.timestamp: unknown column in events.csv 'tme'; did you mean 'time'?",
    ),
    "empty file": ("", {}, "data.events: {root}/events.csv: no rows"),
    "header only": ("user,item,time,label\n", {}, "data.events: {root}/events.csv: no rows"),
    "empty items": (GOOD, {"items": "empty.csv"}, "data.items: {root}/empty.csv: no rows"),
    "empty users": (GOOD, {"users": "empty.csv"}, "data.users: {root}/empty.csv: no rows"),
    "two columns of one name": ("user,item,user\n", {}, "events.csv:1: two columns are named 'user'"),
    "labels": (
        "user,item,time,label\na,x,1,4\na,y,2,5\n",
        {},
        "data.label: column 'label': 2 of 2 labels are not 0 or 1; e.g. '4' at events.csv:2",
    ),
    "times": (
        "user,item,time,label\na,x,noon,1\na,y,2,1\na,y,night,1\n",
        {},
        "data.timestamp: column 'time': 2 of 3 values are not times; e.g. 'noon' at events.csv:2; "
        "set data.timestamp_format to their strptime format",
    ),
    "time format": (
        GOOD,
        {"timestamp_format": "%d/%m/%Y"},
        "data.timestamp: column 'time': 2 of 2 values are not times in the format %d/%m/%Y; e.g. '1' at events.csv:2; "
        "set data.timestamp_format to their strptime format",
    ),
    "splits": (
        GOOD,
        {"split": GivenSplit(column="item")},
        "data.split: column 'item': 2 of 2 values are not train, valid or test; e.g. 'x' at events.csv:2",
    ),
    "predicate": (
        GOOD,
        {"positive": "labl = 1"},
        "data.positive: unknown column 'labl'; did you mean 'label'?",
    ),
    "no predicate": (
        GOOD,
        {"exclude": "time >"},
        "data.exclude: invalid expression 'time >' (syntax error",
    ),
    "no record": (
        "user,item,time,label\na;x;1;1\n",
        {},
        "data.events: none of 1 records can be read; the first, events.csv:2: 1 fields, the header has 4",
    ),
    "everything excluded": (
        GOOD,
        {"exclude": "time > 0"},
        "data.events: events.csv: no row can be used: 2 excluded by data.exclude, 0 malformed",
    ),
    "no trained item": (GOOD, {"positive": "time > 9"}, "data.split: no positive is left for training"),
    "one time": (
        "user,item,time,label\na,x,1,1\na,y,1,1\n",
        {"split": TimeSplit()},
        "data.split: TimeSplit cannot divide a log in which every row has the same time",
    ),
    "item table without the id": (
        GOOD,
        {"items": "events.csv", "item_id": "itm"},
        "data.item_id: unknown column in events.csv 'itm'; did you mean 'item'?",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_input_is_reported_in_one_line(tmp_path: Path, case: str) -> None:
    content, fields, message = UNUSABLE[case]
    name = fields.get("events", "events.csv")
    if content or case == "empty file":
        (tmp_path / name).write_text(content)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, **fields), tmp_path / "run")
    assert str(error.value).startswith(message.format(root=tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "prepared").exists()
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []


def test_times_that_the_first_rows_have_and_most_others_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given format is tried on the first rows; whether most rows have such times is then known from the bad rows."""
    monkeypatch.setattr(timestamps, "_SAMPLE_ROWS", 2)
    good = "a,x,2026-01-01,1\nb,y,2026-01-02,1\n"
    (tmp_path / "events.csv").write_text(f"user,item,time,label\n{good}c,x,2026-01-03,1\na,y,noon,1\n")
    few = prepare_log(experiment(tmp_path, timestamp_format="%Y-%m-%d"), tmp_path / "few")
    assert few["rows"]["quarantined"] == 1
    (tmp_path / "events.csv").write_text(f"user,item,time,label\n{good}a,y,noon,1\na,x,night,1\n")
    message = r"2 of 4 values are not times in the format %Y-%m-%d; e.g. 'noon' at events.csv:4;"
    with pytest.raises(DataError, match=message):
        prepare_log(experiment(tmp_path, timestamp_format="%Y-%m-%d"), tmp_path / "most")


def test_a_feature_column_that_no_table_has(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(GOOD)
    (tmp_path / "users.csv").write_text("user,gender\na,f\n")
    config = ExperimentConfig(
        name="test",
        data=DataConfig(root=str(tmp_path), users="users.csv", user_id="user", item_id="item", timestamp="time"),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("gendre", buckets=10),),
    )
    with pytest.raises(DataError) as error:
        prepare_log(config, tmp_path / "run")
    assert (
        str(error.value) == "user_features: unknown column in events.csv and users.csv 'gendre'; did you mean 'gender'?"
    )


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"u{number % 97},i{number % 89},{number},1\n" for number in range(50_000))
    whole = gzip.compress(("user,item,time,label\n" + rows).encode())
    (tmp_path / "events.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^events\.csv\.gz: cannot be read"):
        prepare_log(experiment(tmp_path, events="events.csv.gz"), tmp_path / "run")


def test_a_number_that_is_none_is_no_value_and_the_row_is_kept(tmp_path: Path) -> None:
    rows = "a,x,1,1,3\na,x,2,1,unknown\na,x,3,1,inf\na,x,4,1,5.5\n"
    (tmp_path / "events.csv").write_text(f"user,item,time,label,age\n{rows}")
    config = ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(tmp_path), user_id="user", item_id="item", timestamp="time", split=RandomSplit(0.0, 0.0)
        ),
        item_features=(Hash("item", buckets=10),),
        user_features=(Numeric("age"),),
    )
    manifest = prepare_log(config, tmp_path / "run")
    assert manifest["rows"]["used"] == 4
    rows = Prepared.open(tmp_path / "run").read_rows("train").to_pylist()
    assert [row["user.age"] for row in rows] == [3.0, None, None, 5.5]


def test_a_column_of_numbers_that_has_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(GOOD)
    (tmp_path / "items.csv").write_text("item,price\nx,12 EUR\ny,3 EUR\nz,4\n")
    config = ExperimentConfig(
        name="test",
        data=DataConfig(root=str(tmp_path), items="items.csv", user_id="user", item_id="item", timestamp="time"),
        item_features=(Numeric("price"),),
        user_features=(Hash("user", buckets=10),),
    )
    with pytest.raises(DataError) as error:
        prepare_log(config, tmp_path / "run")
    assert str(error.value) == (
        "item_features: column 'price': 2 of 3 values are not finite numbers; e.g. '12 EUR' at items.csv:2; "
        "use Hash for categories"
    )
