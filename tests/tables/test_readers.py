"""Files as they come: without a header, of any delimiter, with a broken quote, of another schema, cut off, damaged."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, RandomSplit
from twotower_tf.errors import DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables import csv_records


def experiment(root: Path, features: Sequence[Any] = (), **data: Any) -> ExperimentConfig:
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
        user_features=(Hash("user", buckets=10), *features),
    )


def quarantined(root: Path) -> list[tuple[str, int, str, str]]:
    text = (root / "run" / "prepared" / "quarantine.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["file"], row["line"], row["reason"], row["text"]) for row in rows]


def used(root: Path) -> list[tuple[str, str, int, int]]:
    """(user, item, time, label) of the used rows, in order."""
    prepared = Prepared.open(root / "run")
    users = pq.read_table(prepared.paths.users).column("user_id").to_pylist()
    items = prepared.item_ids()
    columns = prepared.columns("train", ["user_row", "item_row", "timestamp", "label"])
    return [
        (users[user], str(items[item]), int(time), int(label))
        for user, item, time, label in zip(*columns.values(), strict=True)
    ]


NAMES = ("user", "item", "time", "label")


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("log.csv", b"a,x,5,1\nb,y,6,0\n", ""),
        ("log.tsv", b"a\tx\t5\t1\nb\ty\t6\t0\n", ""),
        ("log.csv", b"a^x^5^1\r\nb^y^6^0\r\n", "^"),
        ("log.csv", b"\xef\xbb\xbfa\x01x\x015\x011\nb\x01y\x016\x010", "\x01"),
        ("log.csv", b"a\tx\t5\t1\nb\ty\t6\t0\n", "\\t"),
        ("log.csv.gz", gzip.compress(b"a|x|5|1\nb|y|6|0\n", mtime=0), "|"),
    ],
)
def test_files_without_a_header(tmp_path: Path, name: str, content: bytes, delimiter: str) -> None:
    (tmp_path / name).write_bytes(content)
    config = experiment(tmp_path, events=name, columns=NAMES, delimiter=delimiter)
    assert prepare_log(config, tmp_path / "run")["rows"]["quarantined"] == 0
    assert used(tmp_path) == [("a", "x", 5, 1), ("b", "y", 6, 0)]


def test_bad_rows_of_a_file_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_bytes(b"a,x,5\n\na,x,6,1\na,x,7,9\n")
    prepare_log(experiment(tmp_path, columns=NAMES), tmp_path / "run")
    assert used(tmp_path) == [("a", "x", 6, 1)]
    assert quarantined(tmp_path) == [
        ("events.csv", 1, "3 fields, the configuration names 4", "a,x,5"),
        ("events.csv", 4, "label '9' is not 0 or 1", "a,x,7,9"),
    ]


def test_a_delimiter_that_the_header_does_not_tell(tmp_path: Path) -> None:
    """Fields hold the usual delimiters; only the configuration knows."""
    (tmp_path / "events.csv").write_bytes(b"user~item~time~label\na,1~x;y~5~1\n")
    prepare_log(experiment(tmp_path, delimiter="~"), tmp_path / "run")
    assert used(tmp_path) == [("a,1", "x;y", 5, 1)]


ROWS = [(f"u{number}", f"i{number % 7}", number, number % 2) for number in range(500)]
LINES = [f"{user},{item},{time},{label}" for user, item, time, label in ROWS]
HEADER = "user,item,time,label"
BROKEN = "a quote that is not closed or stands inside a field"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ('u"9,"i9,9,1', BROKEN),  # never closed
        ('"u9,i9,9,1', BROKEN),
        ('u9,"i9"x,9,1', BROKEN),
        ("u9,i9\r9,1", "a carriage return inside the line"),
    ],
)
@pytest.mark.parametrize("after", ["", 'v,"i ""1""",900,1', '"w","i1","901","1"'])
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_record_takes_no_other_with_it(
    tmp_path: Path, extra: str, reason: str, after: str, packed: bool
) -> None:
    lines = [HEADER, *LINES[:100], extra, *LINES[100:], *([after] if after else []), 'x,"i\n2",903,1', "z,i1,902,1"]
    content = ("\n".join(lines) + "\n").encode()
    name = "events.csv.gz" if packed else "events.csv"
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    manifest = prepare_log(experiment(tmp_path, events=name), tmp_path / "run")
    found = [(user, item, time, label) for user, item, time, label in used(tmp_path)]
    more = {"": [], "v": [("v", 'i "1"', 900, 1)], '"': [("w", "i1", 901, 1)]}[after[:1]]
    assert found == [*ROWS, *more, ("z", "i1", 902, 1)]
    last = len(lines) - 1
    assert quarantined(tmp_path) == [
        (name, 102, reason, extra),
        (name, last, "item id with a tab, line end or NUL in column 'item'", 'x,"i\n2",903,1'),
    ]
    assert manifest["rows"] == {"read": len(found) + 2, "used": len(found), "excluded": {}, "quarantined": 2}
    assert manifest["inputs"][0]["path"] == name and manifest["inputs"][0]["size"] == (tmp_path / name).stat().st_size


def test_a_quote_left_open_after_a_lone_carriage_return(tmp_path: Path) -> None:
    """DuckDB states a good record as the text of the broken one, which takes the next record with it."""
    good = [f'{number},1,"u{number}","i ""{number}"""' for number in (1, 2, 3, 6, 7)]
    broken = '4,1,"u4","i ""4"""\r5,1,"u5","i ""5""'
    (tmp_path / "events.csv").write_bytes(
        "\n".join(["time,label,user,item", *good[:3], broken, *good[3:], ""]).encode()
    )
    manifest = prepare_log(experiment(tmp_path), tmp_path / "run")
    assert used(tmp_path) == [(f"u{number}", f'i "{number}"', number, 1) for number in (1, 2, 3, 6, 7)]
    assert quarantined(tmp_path) == [("events.csv", 5, BROKEN, broken)]
    assert manifest["rows"] == {"read": 6, "used": 5, "excluded": {}, "quarantined": 1}


def test_blanks_around_quotes(tmp_path: Path) -> None:
    """One blank before a quote and any after it belong to no value; such a quote may stay open as any other."""
    good = ['a, "x,1" ,1,1', ' "b" ,"x ""y""",2,0', 'c,x,3, "1"  ', 'd,  "x",4,1', "e,x,5,1"]
    broken = [' "b2,x,9,1', 'b3, "x,9,1', ' ",', 'b4, "x" y,9,1']
    lines = [HEADER, *(line for pair in zip(good, [*broken, ""], strict=True) for line in pair)]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    manifest = prepare_log(experiment(tmp_path), tmp_path / "run")
    assert used(tmp_path) == [
        ("a", "x,1", 1, 1), ("b", 'x "y"', 2, 0), ("c", "x", 3, 1), ("d", '  "x"', 4, 1), ("e", "x", 5, 1),
    ]  # fmt: skip
    assert quarantined(tmp_path) == [("events.csv", 2 * place + 3, BROKEN, text) for place, text in enumerate(broken)]
    assert manifest["rows"] == {"read": 9, "used": 5, "excluded": {}, "quarantined": 4}


@pytest.mark.parametrize("found_by", ["first records", "scan"])
def test_many_open_quotes_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found_by: str) -> None:
    """More of them than DuckDB's blocks: each is one line, whichever file it is in."""
    broken: list[bool] = []
    begins_broken = csv_records.begins_broken
    monkeypatch.setattr(csv_records, "_SMALL", 0 if found_by == "first records" else 1 << 20)
    monkeypatch.setattr(csv_records, "begins_broken", lambda source: broken.append(begins_broken(source)) or broken[-1])
    for part in range(3):
        lines = [HEADER]
        for number in range(3000):
            lines.append(f'a,"x,{number},1' if number % 1000 == part else f"a,x,{number},1")
        (tmp_path / f"part-{part}.csv").write_text("\n".join(lines))
    manifest = prepare_log(experiment(tmp_path, events="part-*.csv"), tmp_path / "run")
    assert manifest["rows"] == {"read": 9000, "used": 8991, "excluded": {}, "quarantined": 9}
    assert [(file, line) for file, line, _, _ in quarantined(tmp_path)] == [
        (f"part-{part}.csv", part + 2 + 1000 * block) for part in range(3) for block in range(3)
    ]
    assert broken == [found_by == "first records"] * 3


def test_lines_that_end_in_different_ways(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_bytes(b"user,item,time,label\r\na,x,1,1\nb,y,2,1\r\nc,y,3\n")
    prepare_log(experiment(tmp_path), tmp_path / "run")
    assert used(tmp_path) == [("a", "x", 1, 1), ("b", "y", 2, 1)]
    assert quarantined(tmp_path) == [("events.csv", 4, "3 fields, the header has 4", "c,y,3")]


def test_a_damaged_archive_is_refused_even_where_its_text_can_be_read(tmp_path: Path) -> None:
    content = bytearray(gzip.compress("\n".join([HEADER, *LINES * 40]).encode(), compresslevel=0))
    content[len(content) // 2] ^= 1  # stored as it is: the text is readable, and one character is another
    (tmp_path / "events.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"^events\.csv\.gz: cannot be read: CRC check failed"):
        prepare_log(experiment(tmp_path, events="events.csv.gz"), tmp_path / "run")


def test_an_archive_cut_off_behind_its_last_row_is_refused(tmp_path: Path) -> None:
    for name in ("events.csv.gz", "events.jsonl.gz"):
        content = gzip.compress("\n".join([HEADER, *LINES]).encode() if "csv" in name else b'{"user": "a"}\n')
        (tmp_path / name).write_bytes(content[:-3])
        with pytest.raises(DataError) as error:
            prepare_log(experiment(tmp_path, events=name), tmp_path / "run")
        assert (
            str(error.value)
            == f"{name}: cannot be read: Compressed file ended before the end-of-stream marker was reached"
        )


def test_days_without_rows_are_days_like_others(tmp_path: Path) -> None:
    for day, content in {"20260101": "", "20260102": HEADER, "20260103": f"{HEADER}\na,x,1,1\n"}.items():
        (tmp_path / "events" / f"dt={day}").mkdir(parents=True)
        (tmp_path / "events" / f"dt={day}" / "part-0.csv").write_text(content)
    manifest = prepare_log(experiment(tmp_path, events="events"), tmp_path / "run")
    assert manifest["rows"] == {"read": 1, "used": 1, "excluded": {}, "quarantined": 0}


GOOD_TABLE = {"user": ["a", "b"], "item": [1, 2], "time": [5, 6], "label": [1, 0]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no column of the items": (
        {name: values for name, values in GOOD_TABLE.items() if name != "item"},
        "data.item_id: part-1.parquet has no column 'item', unlike other files of data.events; if it is another "
        "table, name the log's files alone",
    ),
    "text for a number": (
        GOOD_TABLE | {"item": ["x", "y"]},
        "part-1.parquet: column 'item' is string, but int64 in part-0.parquet; "
        "files of one table have one type for a column",
    ),
    "a list for a text": (
        GOOD_TABLE | {"user": [["a"], ["b"]]},
        "part-1.parquet: column 'user' is list<element: string>, but string in part-0.parquet; "
        "files of one table have one type for a column",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_parquet_file_of_another_schema(tmp_path: Path, case: str) -> None:
    other, message = REFUSED[case]
    for part, columns in enumerate((GOOD_TABLE, other, GOOD_TABLE)):
        pq.write_table(pa.table(columns), tmp_path / f"part-{part}.parquet")
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, events="part-*.parquet"), tmp_path / "run")
    assert str(error.value) == message


def test_parquet_files_whose_types_are_kin_are_one_table(tmp_path: Path) -> None:
    other = {
        "extra": [1, 2],
        "user": pa.array(["c", "d"]).dictionary_encode(),
        "item": pa.array([3.0, 4.0], pa.float32()),
        "time": pa.array([7, 8], pa.int32()),
        "label": pa.array([1, 1], pa.int8()),
    }
    pq.write_table(pa.table(GOOD_TABLE), tmp_path / "part-0.parquet")
    pq.write_table(pa.table(other), tmp_path / "part-1.parquet")
    prepare_log(experiment(tmp_path, events="part-*.parquet"), tmp_path / "run")
    assert used(tmp_path) == [("a", "1", 5, 1), ("b", "2", 6, 0), ("c", "3", 7, 1), ("d", "4", 8, 1)]


def test_a_delimited_file_without_a_needed_column_among_good_ones(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_text(f"{HEADER}\na,x,1,1\n")
    (tmp_path / "part-1.csv").write_text("user,item,label\na,x,1\n")
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, events="part-*.csv"), tmp_path / "run")
    assert str(error.value).startswith(
        "data.timestamp: part-1.csv has no column 'time', unlike other files of data.events;"
    )


def test_a_column_that_began_later_is_no_value_before(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_text(f"{HEADER}\na,x,1,1\n")
    (tmp_path / "part-1.csv").write_text(f"{HEADER},device\na,x,2,1,phone\n")
    config = experiment(tmp_path, (Hash("device", buckets=10),), events="part-*.csv")
    prepare_log(config, tmp_path / "run")
    assert Prepared.open(tmp_path / "run").read_rows("train")["user.device"].to_pylist() == [None, "phone"]


def test_a_header_that_is_named_as_well(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"{HEADER}\na,x,1,1\n")
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, columns=NAMES), tmp_path / "run")
    assert str(error.value) == (
        "events.csv:1: the file has a header line; remove the column names from the configuration"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "user^item^time^label\na^x^1^1\n",
            "data.user_id: unknown column in events.csv 'user'; known: user^item^time^label; "
            "the header is a single column: set data.delimiter",
        ),
        (
            "a,x,1,0\nb,x,2,1\n",
            "data.user_id: unknown column in events.csv 'user'; known: 0, 1, a, x; the first line has the value '1' "
            "where a header has a name: name the columns in data.columns, data.item_columns, data.user_columns",
        ),
        (
            "a\tx\tbuy\nb\tx\tview\na\ty\tbuy\n",
            "data.user_id: unknown column in events.csv 'user'; known: a, buy, x; 'a' of the first line occurs again "
            "in its column: name the columns in data.columns, data.item_columns, data.user_columns",
        ),
        (
            "1 4 8\n2 4\n3 5 6 7\n",
            "data.user_id: unknown column in events.csv 'user'; known: 1 4 8; lines 'user item item ...' have "
            "different lengths: convert the file with `twotower dataset lists --source={root}/events.csv`",
        ),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(content)
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path), tmp_path / "run")
    assert str(error.value) == message.format(root=tmp_path)


def test_names_for_a_file_that_has_its_own(tmp_path: Path) -> None:
    pq.write_table(pa.table(GOOD_TABLE), tmp_path / "events.parquet")
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, events="events.parquet", columns=NAMES), tmp_path / "run")
    assert str(error.value) == (
        "data.columns: names the columns of delimited text; events.parquet has names of its own"
    )


def test_the_latest_of_several_rows_of_an_item_counts(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"{HEADER}\na,x,1,1\n")
    (tmp_path / "items.csv").write_text("old,x,red\ny,y,blue\nnew,x,green\n")
    config = experiment(
        tmp_path, items="items.csv", item_columns=("name", "item", "colour"), item_name="name", split=RandomSplit(0, 0)
    )
    manifest = prepare_log(config, tmp_path / "run")
    assert manifest["tables"]["items"] == {"read": 3, "used": 2, "duplicates": 1, "quarantined": 0}
    assert Prepared.open(tmp_path / "run").items().select(["item_id", "item_name", "colour"]).to_pylist() == [
        {"item_id": "x", "item_name": "new", "colour": "green"},
        {"item_id": "y", "item_name": "y", "colour": "blue"},
    ]
