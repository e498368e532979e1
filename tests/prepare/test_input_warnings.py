"""What validation and preparation say of input that can be read: side tables of other ids, markers, files left out."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, TrainConfig
from twotower_tf.errors import DataError
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.tables.duckdb_engine import open_engine

ITEMS = 20


def experiment(root: Path, **data: object) -> ExperimentConfig:
    fields = {"events": "log", "items": "items.csv"} | data
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), **fields),  # type: ignore[arg-type]
        item_features=(Hash("item_id", buckets=10),),
        user_features=(Hash("user_id", buckets=10), Hash("device", buckets=10)),
        train=TrainConfig(batch_size=4),
    )


def write(root: Path, logged: Callable[[int], str], listed: Callable[[int], str], device: str = "pc") -> None:
    (root / "log").mkdir(exist_ok=True)
    rows = [f"u{n % 3},{logged(n % ITEMS)},{1_700_000_000 + n},{device if n % 4 == 0 else 'tv'}\n" for n in range(60)]
    (root / "log" / "a.csv").write_text("user_id,item_id,timestamp,device\n" + "".join(rows))
    (root / "items.csv").write_text("item_id,colour\n" + "".join(f"{listed(n)},red\n" for n in range(ITEMS)))


def warnings(root: Path, **data: object) -> list[str]:
    """Of the preparation; the validation says the same."""
    config = experiment(root, **data)
    manifest = prepare_log(config, root / "run")
    kept = json.loads((root / "run" / "prepared" / "manifest.json").read_text())["warnings"]
    with open_engine(root / "work", "1GB", 1, directories=[root]) as connection:
        (root / "work" / "samples").mkdir()
        report = validate_tables(connection, config, root / "work" / "samples")
    assert not report.problems
    assert manifest["warnings"] == kept
    assert set(kept) <= set(report.notes)
    return list(kept)


FORMS: dict[str, tuple[Callable[[int], str], Callable[[int], str], str]] = {
    "floats": (
        lambda n: f"{100 + n}.0",
        lambda n: f"{100 + n}",
        "the log has '100.0', the table '100', which differ in a final .0",
    ),
    "zeros": (
        lambda n: f"{n:05d}",
        lambda n: f"{n}",
        "the log has '00000', the table '0', which differ in leading zeros",
    ),
    "no zeros": (
        lambda n: f"{n + 1}",
        lambda n: f"{n + 1:03d}",
        "the log has '1', the table '001', which differ in leading zeros",
    ),
    "composed": (
        lambda n: unicodedata.normalize("NFD", f"éi{n}"),
        lambda n: f"éi{n}",
        "the log has 'e\\u0301i0', the table '\\xe9i0', which differ in the Unicode form (NFC, NFD)",
    ),
    "blanks": (
        lambda n: f"i{n}",
        lambda n: f"i{n} ",
        "the log has 'i0', the table 'i0 ', which differ in blanks around them",
    ),
    "case": (
        lambda n: f"SKU{n}",
        lambda n: f"sku{n}",
        "the log has 'SKU0', the table 'sku0', which differ in upper and lower case",
    ),
    "a prefix": (
        lambda n: f"i{n}",
        lambda n: f"{n}",
        "the log has 'i0', the table '0', which differ in a prefix of letters",
    ),
    "other ids": (lambda n: f"i{n}", lambda n: f"{n + 500}", "the log has 'i0', the table '500'"),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_item_table_that_matches_no_item(tmp_path: Path, form: str) -> None:
    logged, listed, end = FORMS[form]
    write(tmp_path, logged, listed)
    (line,) = warnings(tmp_path)
    assert line.startswith("data.items: none of the 20 item ids of the log is in items.csv; ")
    assert line.endswith(end if form == "other ids" else f"{end}: write the ids alike")


def test_a_table_that_matches_some(tmp_path: Path) -> None:
    """Few: a line. Most, and the rest are other items: none. Most, and the rest are written otherwise: a line."""
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}" if n < 9 else f"x{n}")
    assert warnings(tmp_path) == ["data.items: 9 (45 %) of the 20 item ids of the log are in items.csv; the log has 'i10', the table 'x10', which differ in a prefix of letters: write the ids alike"]  # fmt: skip # noqa: E501
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}" if n < 12 else f"{n}x")
    assert warnings(tmp_path) == []
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}" if n < 12 else f"I{n}")
    (line,) = warnings(tmp_path)
    assert line.startswith("data.items: 12 (60 %) of the 20 item ids of the log are in items.csv; the log has 'i12',")


def test_a_user_table_that_matches_nobody(tmp_path: Path) -> None:
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}")
    (tmp_path / "users.csv").write_text("user_id,age\n0,20\n1,30\n2,40\n")
    (line,) = warnings(tmp_path, users="users.csv")
    assert line == (
        "data.users: none of the 3 user ids of the log is in users.csv; the log has 'u0', the table '0', which differ "
        "in a prefix of letters: write the ids alike"
    )


def test_markers_of_missing_values(tmp_path: Path) -> None:
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}", device="\\N")
    assert warnings(tmp_path) == [
        "log/a.csv: column 'device': 25 % of the values are '\\\\N'; if it means no value, "
        "set data.null_values=('\\\\N',)"
    ]
    assert warnings(tmp_path, null_values=("\\N",)) == []


def test_files_and_rows_that_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}")
    (tmp_path / "log" / "b.csv").write_text("user_id,item_id,timestamp,device\n")
    (tmp_path / "log" / "c.csv").write_text(",user_id,item_id,timestamp,device\n0,u1,i1,1700000000,pc\n1,u1,,5,pc\n")
    (tmp_path / "log" / "c.xlsx").write_text("x")
    with (tmp_path / "items.csv").open("a") as file:
        file.write(",blue\n")
    assert warnings(tmp_path) == [
        "data.events: log/c.xlsx: not read; the name has no suffix of the table's format",
        "data.events: log/b.csv: no rows",
        "data.events: log/c.csv: a column without a name is ignored",
        "data.events: 1 of 62 rows set aside; the first, log/c.csv:3: no item id: column 'item_id' is empty",
        "data.items: 1 of 21 rows set aside; the first, items.csv:22: no item id: column 'item_id' is empty",
    ]


def test_times_of_another_unit_are_set_aside(tmp_path: Path) -> None:
    """Seconds among milliseconds would be January 1970."""
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}")
    rows = [f"u{n % 3},i{n},{(1_700_000_000 + n) * (1 if n % 3 == 0 else 1000)},pc\n" for n in range(20)]
    (tmp_path / "log" / "a.csv").write_text("user_id,item_id,timestamp,device\n" + "".join(rows))
    assert warnings(tmp_path) == [
        "data.events: 7 of 20 rows set aside; the first, log/a.csv:2: time '1700000000' is not epoch milliseconds"
    ]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([f"i{n};caf\xe9 {n}" for n in range(ITEMS)], "not UTF-8; set data.item_format=TextFormat(encoding='latin-1')"),
        (
            [f'i{n};"Weird" Al {n}' for n in range(ITEMS)],
            "a quote that is not closed or stands inside a field; set data.item_format=TextFormat(quote='')",
        ),
    ],
)
def test_settings_that_would_read_the_rows_are_named(tmp_path: Path, rows: list[str], why: str) -> None:
    write(tmp_path, lambda n: f"i{n}", lambda n: f"i{n}")
    text = "\n".join(["item_id;title", *rows[1:], "i0;plain"]) + "\n"
    (tmp_path / "items.csv").write_bytes(text.encode("latin-1"))
    assert warnings(tmp_path)[0] == f"data.items: 19 of 20 rows set aside; the first, items.csv:2: {why}"
    (tmp_path / "items.csv").write_bytes("\n".join(["item_id;title", *rows]).encode("latin-1"))
    with pytest.raises(DataError) as error:
        warnings(tmp_path)
    assert str(error.value) == f"data.items: none of 20 records can be read; the first, items.csv:2: {why}"
