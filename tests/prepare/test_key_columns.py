"""Refusals, weights, lists and places of the log, as the examples have them."""

from __future__ import annotations

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.prepare.test_preparation import Row, write_csv
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, LeaveLastOut, RandomSplit, TimeSplit
from twotower_tf.errors import DataError
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables.duckdb_engine import open_engine

USUAL = ["user_row", "item_row", "label", "timestamp", "history_start", "history_end"]
SPLITS = ("train", "valid", "test")


def experiment(root: Path, **data: Any) -> ExperimentConfig:
    fields = {"user_id": "user", "item_id": "item", "timestamp": "time", "label": "click"} | data
    return ExperimentConfig(
        name="test",
        data=DataConfig(root=str(root), **fields),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("user", buckets=10),),
    )


def random_log(seed: int, rows: int = 200) -> list[Row]:
    chance = random.Random(seed)
    return [
        {
            "user": f"u{chance.randrange(9)}",
            "item": f"i{chance.randrange(20)}",
            "time": chance.randrange(30),
            "click": int(chance.random() < 0.5),
            "action": chance.choice(["hide", "skip", "buy", ""]),
            "price": chance.choice(["", "nan", "-1", "0", "1e39", "2.5", "7", "1e3", "3"]),
            "request": chance.choice(["", "r1", "r2", "Ünï"]),
            "place": chance.choice(["", "1", "2", "3.5", "top"]),
        }
        for _ in range(rows)
    ]


def list_number(text: str) -> int:
    """The low 8 bytes of the MD5, little-endian, without their lowest bit."""
    return int.from_bytes(hashlib.md5(text.encode()).digest()[8:], "little") >> 1 if text else -1


@pytest.mark.parametrize("split", [TimeSplit(0.2, 0.2), LeaveLastOut(), RandomSplit()], ids=lambda split: split.type)
def test_key_columns_agree_with_plain_python(tmp_path: Path, split: Any) -> None:
    log = random_log(5)
    write_csv(tmp_path / "events.csv", log)
    config = experiment(
        tmp_path,
        rejected="action = 'hide' OR price = 'nan'",
        exclude="action = 'buy' AND price IS NULL",
        weight="CASE action WHEN 'skip' THEN '1' ELSE price END",
        list_id="request",
        position="place",
        split=split,
    )
    manifest = prepare_log(config, tmp_path / "run")
    prepared = Prepared.open(tmp_path / "run")
    assert manifest["keys"] == [*USUAL, "rejected", "weight", "list", "position"]
    expected, bad, excluded = [], [], 0
    for number, row in enumerate(log, 2):
        weight = "1" if row["action"] == "skip" else row["price"]
        if row["action"] == "buy" and not row["price"]:
            excluded += 1
        elif weight in ("", "nan", "-1", "1e39"):
            reason = f"weight: '{weight}' is not a number of at least 0" if weight else "weight: no value"
            bad.append((number, reason))
        else:
            rejected = not row["click"] and (row["action"] == "hide" or row["price"] == "nan")
            place = float(row["place"]) if row["place"] not in ("", "top") else None
            expected.append(
                (row["user"], row["item"], row["time"], row["click"], rejected, float(weight),
                 list_number(row["request"]), place)
            )  # fmt: skip
    assert manifest["rows"] == {
        "read": len(log), "used": len(expected), "excluded": {"exclude": excluded}, "quarantined": len(bad),
    }  # fmt: skip
    quarantine = map(json.loads, prepared.paths.quarantine.read_text().splitlines())
    assert [(entry["line"], entry["reason"]) for entry in quarantine] == bad
    users, items = prepared.user_ids(), prepared.item_ids()
    found = []
    for name in SPLITS:
        keys = prepared.columns(name, manifest["keys"])
        found += [
            (users[user], items[item], time, label, rejected, weight, number, None if math.isnan(place) else place)
            for user, item, label, time, _, _, rejected, weight, number, place in zip(
                *(keys[key].tolist() for key in manifest["keys"]), strict=True
            )
        ]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert sum(row[4] for row in expected) > 10 < len(bad)


def test_a_column_is_there_only_where_it_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", random_log(1))
    assert prepare_log(experiment(tmp_path), tmp_path / "bare")["keys"] == USUAL
    manifest = prepare_log(experiment(tmp_path, weight="2"), tmp_path / "weighed")
    assert manifest["keys"] == [*USUAL, "weight"]
    weights = Prepared.open(tmp_path / "weighed").columns("train", ["weight"])["weight"]
    assert weights.dtype == np.float32 and set(weights.tolist()) == {2.0}
    with (tmp_path / "bare/prepared/examples/train/part-00000.parquet").open("rb") as file:
        assert b"weight" not in file.read()


REFUSALS = {
    "rejected": ({"rejected": "acton = 'hide'"}, r"^data\.rejected: unknown column 'acton'; did you mean 'action'\?"),
    "weight": ({"weight": "prize * 2"}, r"^data\.weight: unknown column 'prize'; did you mean 'price'\?"),
    "weights of which most are none": (
        {"weight": "CASE click WHEN 1 THEN 3 END"},
        r"^data\.weight: 'CASE click WHEN 1 THEN 3 END': 3 of 4 weights are not numbers of at least 0; "
        r"e\.g\. weight: no value at events\.csv:3$",
    ),
    "places of which most are none": (
        {"list_id": "request", "position": "action"},
        r"^data\.position: column 'action': 4 of 4 values are not numbers; e\.g\. 'hide' at events\.csv:2$",
    ),
    "no such list": (
        {"list_id": "requst", "position": "place"},
        r"^data\.list_id: unknown column in events\.csv 'requst'; did you mean 'request'\?$",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_used_is_refused_with_its_field(tmp_path: Path, case: str) -> None:
    row = {"user": "u", "item": "i", "time": 5, "click": 0, "action": "hide", "price": 1, "request": "r", "place": 1}
    write_csv(tmp_path / "events.csv", [{**row, "click": 1}, row, row, row])
    fields, message = REFUSALS[case]
    with pytest.raises(DataError, match=message):
        prepare_log(experiment(tmp_path, split=RandomSplit(0, 0), **fields), tmp_path / "run")
    with open_engine(tmp_path / "work", "1GB", 1, directories=[tmp_path]) as connection:
        report = validate_tables(connection, experiment(tmp_path, split=RandomSplit(0, 0), **fields), tmp_path)
    (problem,) = report.problems
    with pytest.raises(DataError, match=message):
        raise DataError(problem)
