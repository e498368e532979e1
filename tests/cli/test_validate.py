"""`twotower validate`: all problems at once, each with its file and line or column, and none for valid input."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.cli.main import main
from twotower_tf.tables import row_sample

CONFIG = """
from twotower_tf.config import *

def get_config():
    return ExperimentConfig(
        name="small",
        data=DataConfig(root={root!r}, events="log", items="items.csv", label="click", {more}),
        item_features=(Hash("item_id", buckets=100), Hash("colour", buckets=10)),
        user_features=(Hash("user_id", buckets=100), Numeric("age"), History(of="item_id")),
        train=TrainConfig(batch_size=16),
    )
"""
HEADER = "user_id,item_id,timestamp,click,age"


def rows(count: int, first: int = 0) -> list[str]:
    return [f"u{n % 9},i{n % 5},{1_700_000_000 + n},{n % 2},{20 + n % 30}" for n in range(first, first + count)]


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write(tmp_path / "log" / "a.csv", HEADER, *rows(50))
    write(tmp_path / "log" / "b.csv.gz", HEADER, *rows(50, 50))
    write(tmp_path / "items.csv", "item_id,colour", *(f"i{n},red" for n in range(5)))
    return tmp_path


def validate(root: Path, capsys: pytest.CaptureFixture[str], more: str = "") -> tuple[int, list[str], str]:
    (root / "small.py").write_text(CONFIG.format(root=str(root), more=more))
    before = sorted(root.rglob("*"))
    status = main(["validate", f"--config={root}/small.py"])
    captured = capsys.readouterr()
    assert sorted(root.rglob("*")) == before
    return status, captured.out.splitlines(), captured.err.splitlines()[-1]


def test_good_input(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(good / "log" / "c.csv")
    (good / "log" / "c.csv").write_bytes(b"")
    status, out, _ = validate(good, capsys)
    assert status == 0
    assert out == [
        "note: data.events: log/c.csv: no rows",
        "events: 3 files, 100 rows checked",
        "items: 1 file, 5 rows checked",
        f"{good}/small.py: no problem",
    ]


def test_everything_at_once(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = rows(30)
    lines[3] = "u1,i1,yesterday,1,20"
    lines[5] = "u1,i1,1700000000,7,20"
    lines[7] = ",i1,1700000000,1,20"
    lines[9] = "u1,i1,1700000000"
    lines[11] = 'u1,"i1,1700000000,1,20'
    write(good / "log" / "c.csv.gz", HEADER, *lines)
    write(good / "log" / "d.csv.gz", HEADER, *rows(20000))
    whole = (good / "log" / "d.csv.gz").read_bytes()
    (good / "log" / "d.csv.gz").write_bytes(whole[: len(whole) // 2])
    write(good / "log" / "e.csv", HEADER + ",user_id", *rows(3))
    write(good / "items.csv", "item_id,colour", "i1,red", ",blue")
    status, out, err = validate(good, capsys, "positive='click = 1 and', exclude='agee > 3'")
    assert status == 2
    assert out == [
        "log/d.csv.gz: cannot be read: Compressed file ended before the end-of-stream marker was reached",
        "log/e.csv:1: two columns are named 'user_id'",
        "data.positive: invalid expression 'click = 1 and' (syntax error at or near \")\")",
        "data.exclude: unknown column 'agee'; did you mean 'age'? known: age, click, item_id, timestamp, user_id",
        "note: data.events: 2 of 130 rows set aside; the first, log/c.csv.gz:11: 3 fields, the header has 5",
        "note: data.items: 1 of 2 rows set aside; the first, items.csv:3: no item id: column 'item_id' is empty",
        "note: log/c.csv.gz:11: 3 fields, the header has 5",
        "note: log/c.csv.gz:13: a quote that is not closed or stands inside a field",
        "note: items.csv:3: no item id: column 'item_id' is empty",
    ]
    assert err == f"twotower validate: {good}/small.py: 4 problems found; see the lines above"
    status, out, err = validate(good, capsys)
    assert out[2:] == [
        "note: data.events: 5 of 130 rows set aside; the first, log/c.csv.gz:5: time 'yesterday' is not epoch seconds",
        "note: data.items: 1 of 2 rows set aside; the first, items.csv:3: no item id: column 'item_id' is empty",
        "note: log/c.csv.gz:5: time 'yesterday' is not epoch seconds",
        "note: log/c.csv.gz:7: label '7' is not 0 or 1",
        "note: log/c.csv.gz:9: no user id: column 'user_id' is empty",
        "note: log/c.csv.gz:11: 3 fields, the header has 5",
        "note: log/c.csv.gz:13: a quote that is not closed or stands inside a field",
        "note: items.csv:3: no item id: column 'item_id' is empty",
    ]
    (good / "log" / "d.csv.gz").unlink()
    (good / "log" / "e.csv").unlink()
    write(good / "items.csv", "item_id,colour", *(f"i{n},red" for n in range(5)))
    status, out, _ = validate(good, capsys)  # quarantined rows do not make a log invalid
    assert status == 0
    assert out[-3:] == [
        "events: 3 files, 128 rows checked",
        "items: 1 file, 5 rows checked",
        f"{good}/small.py: no problem",
    ]


Spoil = Callable[[Path], Any]
CASES: dict[str, tuple[Spoil, str, list[str]]] = {
    "names": (
        lambda root: [
            write(root / "log" / "a.csv", HEADER.replace("user_id", "usr_id").replace("age", "years"), *rows(9)),
            (root / "log" / "b.csv.gz").unlink(),
            write(root / "items.csv", "id,color", "i1,red"),
        ],
        "timestamp='timestmp'",
        [
            "data.user_id: unknown column in log/a.csv 'user_id'; did you mean 'usr_id'?",
            "data.timestamp: unknown column in log/a.csv 'timestmp'; did you mean 'timestamp'?",
            "data.item_id: unknown column in items.csv 'item_id'; known: color, id",
            "user_features: unknown column in log/a.csv 'age'; known: click, item_id, timestamp, usr_id, years",
            "item_features: unknown column in log/a.csv and items.csv 'colour'; did you mean 'color'?",
        ],
    ),
    "a column that some files have": (
        lambda root: [write(root / "log" / f"{name}.csv", "user_id,item_id,timestamp", *rows(9)) for name in "cd"],
        "",
        [
            "data.label: log/d.csv has no column 'click', unlike other files of data.events; if it is "
            "another table, name the log's files alone",
            "data.label: log/c.csv has no column 'click', unlike other files of data.events; if it is "
            "another table, name the log's files alone",
            "note: data.events: 18 of 118 rows set aside; the first, log/c.csv:2: 5 fields, the header has 3",
            *(f"note: log/{name}.csv:{line}: 5 fields, the header has 3" for name in "c" for line in range(2, 7)),
            "note: log/c.csv: 4 more rows like the last",
            *(f"note: log/{name}.csv:{line}: 5 fields, the header has 3" for name in "d" for line in range(2, 7)),
            "note: log/d.csv: 4 more rows like the last",
        ],
    ),
    "labels and times": (
        lambda root: [
            write(root / "log" / "a.csv", HEADER, *(f"u1,i1,noon,{n},x" for n in range(2, 9))),
            (root / "log" / "b.csv.gz").unlink(),
        ],
        "",
        [
            "user_features: column 'age': 7 of 7 values are not finite numbers; e.g. 'x' at log/a.csv:2; "
            "use Hash for categories",
            "data.timestamp: column 'timestamp': 7 of 7 values are not times; e.g. 'noon' at log/a.csv:2; "
            "set data.timestamp_format to their strptime format",
            "data.label: column 'click': 7 of 7 labels are not 0 or 1; e.g. '2' at log/a.csv:2",
        ],
    ),
    "no file": (
        lambda root: (root / "items.csv").unlink(),
        "users='users.tsv'",
        ["data.items: no such file: {root}/items.csv", "data.users: no such file: {root}/users.tsv"],
    ),
    "no rows": (
        lambda root: [
            write(root / "log" / "a.csv", HEADER),
            (root / "log" / "b.csv.gz").unlink(),
        ],
        "",
        ["data.events: {root}/log: no rows"],
    ),
    "empty tables": (
        lambda root: [
            (root / "log" / "a.csv").write_bytes(b""),
            (root / "log" / "b.csv.gz").unlink(),
            (root / "items.csv").write_bytes(b""),
        ],
        "",
        [
            "data.events: {root}/log: no rows",
            "data.items: {root}/items.csv: no rows",
        ],
    ),
    "a column of negatives": (
        lambda root: None,
        "), sampling=SamplingConfig((InBatch(), SameAttribute(('colur',), 2))), evaluation=EvaluationConfig(",
        ["sampling.negatives: SameAttribute: unknown column of the catalogue 'colur'; did you mean 'colour'?"],
    ),
    "a day that is none": (
        lambda root: write(root / "log" / "dt=soon" / "a.csv", HEADER, *rows(3)),
        "split=DateSplit(train_days=3)",
        ["log/dt=soon/a.csv: dt: invalid day 'soon' (expected e.g. dt=20260131)"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_tells(case: str, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, more, problems = CASES[case]
    spoil(good)
    status, out, _ = validate(good, capsys, more)
    assert status == 2
    assert out == [problem.format(root=good) for problem in problems]


def test_schemas_of_parquet_files(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (good / "log").iterdir():
        file.unlink()
    table = {"user_id": ["a"], "item_id": ["x"], "timestamp": [5], "click": [1], "age": [3.5]}
    pq.write_table(pa.table(table), good / "log" / "a.parquet")
    pq.write_table(pa.table(table | {"user_id": [7], "age": ["old"]}), good / "log" / "b.parquet")
    pq.write_table(pa.table(table | {"click": [3]}), good / "log" / "c.parquet")
    (good / "log" / "d.parquet").write_bytes(b"PAR1 not quite")
    status, out, _ = validate(good, capsys)
    assert status == 2
    assert out[0].startswith("log/d.parquet: cannot be read as Parquet: ")
    assert out[1:] == [
        "log/b.parquet: column 'user_id' is int64, but string in log/a.parquet; "
        "files of one table have one type for a column",
        "log/b.parquet: column 'age' is string, but double in log/a.parquet; "
        "files of one table have one type for a column",
        "note: data.events: 1 of 2 rows set aside; the first, log/c.parquet row 1: label '3' is not 0 or 1",
        "note: log/c.parquet row 1: label '3' is not 0 or 1",
    ]


@pytest.mark.parametrize("place", [0, 1990, 10_050, 39_990])
def test_a_row_of_the_sample_has_the_number_it_has_in_the_file(
    place: int, good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows around it are full of line breaks inside quotes, which begin and end outside the blocks."""
    monkeypatch.setattr(row_sample, "WHOLE_BYTES", 0)
    lines = [f'u1,i1,{1_700_000_000 + n},1,"2\n0"' if n % 3 == 0 else rows(1, n)[0] for n in range(30_000)]
    text = "\n".join([HEADER, *lines]).split("\n")
    at = next(n for n in range(place + 1, len(text)) if text[n].count(",") == 4 and '"' not in text[n])
    text[at] = "u1,i1,1700000000,maybe,20"
    write(good / "log" / "a.csv", *text)
    status, out, _ = validate(good, capsys)
    assert (status, out[1]) == (0, f"note: log/a.csv:{at + 1}: label 'maybe' is not 0 or 1")


def test_rows_of_large_parquet_files_keep_their_numbers(
    good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sample, "WHOLE_BYTES", 0)
    for file in (good / "log").iterdir():
        file.unlink()
    count = 30_000
    labels = [1] * count
    labels[1], labels[-3] = 5, 6
    table = {
        "user_id": ["a"] * count,
        "item_id": ["x"] * count,
        "timestamp": list(range(count)),
        "click": labels,
        "age": [1] * count,
    }
    pq.write_table(pa.table(table), good / "log" / "a.parquet", row_group_size=7_000)
    _, out, _ = validate(good, capsys)
    assert out[1:3] == [
        "note: log/a.parquet row 2: label '5' is not 0 or 1",
        "note: log/a.parquet row 29998: label '6' is not 0 or 1",
    ]


def test_rows_behind_a_plain_header_that_are_all_quoted(
    good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_sample, "WHOLE_BYTES", 0)
    quoted = ['"' + row.replace(",", '","') + '"' for row in rows(5_000)]
    write(good / "log" / "a.csv", HEADER, *quoted)
    status, out, _ = validate(good, capsys)
    assert status == 0
    assert out[0].startswith("events: 2 files, 3,049 rows")  # the head and tail of one file, and 50 rows of the other


UNUSABLE: dict[str, tuple[Spoil, str, str]] = {
    "one time": (
        lambda root: write(root / "log" / "a.csv", HEADER, *(f"u{n},i{n},5,1,20" for n in range(30))),
        "",
        "data.split: TimeSplit cannot divide a log in which every row has the same time",
    ),
    "few positives": (
        lambda root: write(root / "log" / "a.csv", HEADER, *rows(30)),
        "",
        "train.batch_size: invalid value 16 (expected at most 12, the training rows); lower it, "
        "e.g. --set train.batch_size=3",
    ),
    "objects over several lines, one broken": (
        lambda root: [
            (root / "log" / "a.csv").unlink(),
            (root / "log" / "a.json").write_text('{"user_id": 1,\n"item_id": \n}\n'),
        ],
        "",
        "data.events: none of 3 records can be read; the first, log/a.json:1: not a JSON object",
    ),
    "no usable item": (
        lambda root: write(root / "items.csv", "item_id;colour", *(f'"i{n}";"red \\"{n}\\""' for n in range(5))),
        "",
        "data.items: none of 5 records can be read; the first, items.csv:2: a quote that is not closed or stands "
        "inside a field; set data.item_format=TextFormat(escape='\\\\')",
    ),
    "no item with an id": (
        lambda root: write(root / "items.csv", "item_id,colour", ",red", ",blue"),
        "",
        "data.items: none of 2 records can be used; the first, items.csv:2: no item id: column 'item_id' is empty",
    ),
    "only negatives": (
        lambda root: write(root / "log" / "a.csv", HEADER, *(f"u{n},i{n},{n},0,20" for n in range(30))),
        "",
        "data.split: no positive is left for training",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_refuses_what_the_preparation_refuses(case: str, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, more, message = UNUSABLE[case]
    (good / "log" / "b.csv.gz").unlink()
    spoil(good)
    status, out, _ = validate(good, capsys, more)
    assert status == 2
    assert out[0].startswith(message)
    if case != "few positives":  # refused by the training
        assert main(["prepare", f"--config={good}/small.py", f"--run_dir={good}/run"]) == 2
        assert message in capsys.readouterr().err


def test_a_batch_of_windows_or_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Histories of a end at 0 to 6, those of b at 0, 0, 2, that of c at 0: two windows of four places, one, and one."""
    times = {"a": [1, 2, 3, 4, 5, 6, 7], "b": [1, 1, 2], "c": [4]}
    events = [f"{user},i{time},{time},train,1" for user, some in times.items() for time in some]
    more = ["a,i9,9,test,1", "b,i9,2,train,0", "b,i8,3,train,0"]  # a row with label 0 is not trained on
    write(tmp_path / "log.csv", "user_id,item_id,timestamp,split,click", *events, *more)
    text = CONFIG.replace('"log", items="items.csv"', '"log.csv"').replace(', Hash("colour", buckets=10)', ",")
    text = text.replace(', Numeric("age"), History(of="item_id")', "")
    history = 'History(of="item_id", length=4, encoder="self_attention")'
    for size, status in ((4, 0), (5, 2)):
        config = text.replace("batch_size=16", f"batch_size={size}").replace(
            '(Hash("user_id", buckets=100)', f"({history},"
        )
        (tmp_path / "small.py").write_text(config.format(root=str(tmp_path), more="split=GivenSplit()"))
        assert main(["validate", f"--config={tmp_path}/small.py"]) == status
        out = capsys.readouterr().out
        refused = "train.batch_size: invalid value 5 (expected at most 4, the windows of users' sequences); lower it"
        assert (refused in out) == (size == 5)
    users = text.replace("batch_size=16", 'batch_size=4, rows="user"').replace(
        "train=", "loss=BilateralSoftmax(), train="
    )
    users = users.replace('(Hash("user_id", buckets=100)', '(Hash("user_id", buckets=100),')
    (tmp_path / "small.py").write_text(users.format(root=str(tmp_path), more="split=GivenSplit(), timestamp=''"))
    assert main(["validate", f"--config={tmp_path}/small.py"]) == 2
    assert "invalid value 4 (expected at most 3, the users with training positives)" in capsys.readouterr().out


def test_an_invalid_configuration_is_reported_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.py").write_text("def get_config():\n    return 3\n")
    assert main(["validate", f"--config={tmp_path}/small.py"]) == 2
    assert capsys.readouterr().err == (
        f"twotower validate: {tmp_path}/small.py: get_config() must return an ExperimentConfig; got int\n"
    )
