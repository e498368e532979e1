"""TFRecord files against those that TensorFlow itself writes, whole and damaged at chosen bytes."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from twotower_tf.config import DataConfig, ExperimentConfig, Hash, Numeric, RandomSplit, Tags
from twotower_tf.errors import DataError
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables import row_sample
from twotower_tf.tables.crc32c import masked_crc32c

pytestmark = pytest.mark.tensorflow


def example(**features: Any) -> bytes:
    found = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], int):
            found[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        elif values and isinstance(values[0], float):
            found[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            texts = [value.encode() if isinstance(value, str) else value for value in values]
            found[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))
    return bytes(tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString())


def write(path: Path, records: list[bytes]) -> None:
    options = "GZIP" if path.name.endswith(".gz") else ""
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)


def experiment(root: Path, events: str) -> ExperimentConfig:
    return ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(root),
            events=events,
            user_id="user",
            item_id="item",
            timestamp="time",
            label="label",
            split=RandomSplit(0.0, 0.0),
        ),
        item_features=(Hash("item", buckets=10),),
        user_features=(Hash("user", buckets=10), Tags("likes", buckets=10), Numeric("age"), Hash("dt", buckets=10)),
    )


def quarantined(root: Path) -> list[dict[str, Any]]:
    text = (root / "run" / "prepared" / "quarantine.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rows(root: Path) -> list[tuple[Any, ...]]:
    prepared = Prepared.open(root / "run")
    users, items = pq.read_table(prepared.paths.users).column("user_id").to_pylist(), prepared.item_ids()
    return [
        (users[row["user_row"]], str(items[row["item_row"]]), row["timestamp"], row["label"])
        + tuple(row[f"user.{name}"] for name in ("likes", "age", "dt"))
        for row in prepared.read_rows("train").to_pylist()
    ]


@pytest.mark.parametrize("ending", [".tfrecord", ".tfrecords", ".tfrecord.gz"])
def test_examples_become_rows(tmp_path: Path, ending: str) -> None:
    for day in ("20260101", "20260102"):
        (tmp_path / "log" / f"dt={day}").mkdir(parents=True)
    write(
        tmp_path / "log" / "dt=20260101" / f"part-0{ending}",
        [
            example(user="a", item=7, time=100, label=1),
            example(user="b", item=7.0, time=101, label=0, age=0.1, likes=["x", "y"], unknown="z"),
        ],
    )
    write(
        tmp_path / "log" / "dt=20260102" / f"part-0{ending}",
        [example(label=1.0, time="1970-01-01T00:01:42Z", item="8", user="a", age=[], likes="")],
    )
    (tmp_path / "log" / "dt=20260102" / f"part-1{ending}").write_bytes(gzip.compress(b"") if "gz" in ending else b"")
    config = experiment(tmp_path, "log")
    # one column has one form: the third row's time is not the number that the others are
    manifest = prepare_log(config, tmp_path / "run")
    assert manifest["rows"] == {"read": 3, "used": 2, "excluded": {}, "quarantined": 1}
    assert rows(tmp_path) == [
        ("a", "7", 100, 1, None, None, "20260101"),
        ("b", "7", 101, 0, "x|y", 0.1, "20260101"),
    ]
    (entry,) = quarantined(tmp_path)
    assert entry["file"] == f"log/dt=20260102/part-0{ending}" and entry["record"] == 1
    assert entry["reason"] == "time '1970-01-01T00:01:42Z' is not epoch seconds"
    assert json.loads(entry["text"])["item"] == "8"


def good(count: int) -> list[bytes]:
    return [example(user=f"u{n}", item=f"i{n % 3}", time=n, label=1, likes="x", age=1.5, dt="d") for n in range(count)]


def starts(records: list[bytes]) -> list[int]:
    """Where each record begins in the file."""
    found = [0]
    for record in records:
        found.append(found[-1] + 16 + len(record))
    return found


def test_a_bad_record_is_set_aside_by_its_number(tmp_path: Path) -> None:
    records = good(9000)  # more than a batch
    records[1] = b"no protocol buffer"
    records[4500] = example(user=b"\xff\xfe", item="i", time=3, label=1)
    records[5000] = example(user="a\tb", item="i", time=3, label=1)
    write(tmp_path / "events.tfrecord", records)
    content = bytearray((tmp_path / "events.tfrecord").read_bytes())
    content[starts(records)[8000] + 12 + 5] ^= 0xFF
    (tmp_path / "events.tfrecord").write_bytes(content)
    manifest = prepare_log(experiment(tmp_path, "events.tfrecord"), tmp_path / "run")
    assert manifest["rows"] == {"read": 9000, "used": 8996, "excluded": {}, "quarantined": 4}
    assert [(entry["record"], entry["reason"]) for entry in quarantined(tmp_path)] == [
        (2, "not a tf.Example"),
        (4501, "feature 'user': not UTF-8"),
        (5001, "user id with a tab, line end or NUL in column 'user'"),
        (8001, "damaged: its checksum does not match"),
    ]


def damaged(position: int, value: bytes) -> bytes:
    records = good(3)
    content = b"".join(
        struct.pack("<Q", len(record))
        + struct.pack("<I", masked_crc32c(struct.pack("<Q", len(record))))
        + record
        + struct.pack("<I", masked_crc32c(record))
        for record in records
    )
    at = starts(records)[1] + position
    return content[:at] + value + content[at + len(value) :]


LOST = "events.tfrecord record 2: the length is damaged, so that no later record can be found; write the file again"
UNUSABLE = {
    "a length": (damaged(0, b"\x01"), LOST),
    "a length beyond all bounds": (damaged(7, b"\x7f"), LOST),
    "a length's checksum": (damaged(8, b"\x00\x00"), LOST),
    "cut off in a record": (damaged(0, b"")[:-7], "events.tfrecord: truncated in record 3; write the file again"),
    "cut off in a length": (
        damaged(0, b"")[: starts(good(3))[2] + 5],
        "events.tfrecord: truncated in record 3; write the file again",
    ),
    "another format": (b"user,item\na,x\n", "events.tfrecord record 1: the length is damaged"),
    "a few bytes": (b"abc", "events.tfrecord: not a TFRecord file, or truncated in record 1; write the file again"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path, case: str) -> None:
    content, message = UNUSABLE[case]
    (tmp_path / "events.tfrecord").write_bytes(content)
    with pytest.raises(DataError) as error:
        prepare_log(experiment(tmp_path, "events.tfrecord"), tmp_path / "run")
    assert str(error.value).startswith(message)


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "events.tfrecord.gz", good(1000))
    whole = (tmp_path / "events.tfrecord.gz").read_bytes()
    (tmp_path / "events.tfrecord.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"^events\.tfrecord\.gz: cannot be read: Compressed file ended"):
        prepare_log(experiment(tmp_path, "events.tfrecord.gz"), tmp_path / "run")


def test_the_checksum_is_the_published_one() -> None:
    """RFC 3720, B.4: 32 bytes of zeros, of ones, rising, falling; masked as TFRecord does."""
    texts = [bytes(32), b"\xff" * 32, bytes(range(32)), bytes(reversed(range(32))), b""]
    plain = [0x8A9136AA, 0x62A8AB43, 0x46DD794E, 0x113FDB5C, 0]
    masked = [((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF for crc in plain]
    assert [masked_crc32c(text) for text in texts] == masked


def test_a_sample_of_records_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sample, "WHOLE_BYTES", 0)
    records = [
        example(user=user, item="i", time=5, label=label, likes="x", age=1.5, dt="d")
        for user, label in (("a", 1), ("b", 4), ("", 1), ("c", 1))
    ]
    write(tmp_path / "events.tfrecord.gz", [*records, *good(9000)])
    (tmp_path / "samples").mkdir()
    report = validate_tables(duckdb.connect(), experiment(tmp_path, "events.tfrecord.gz"), tmp_path / "samples")
    assert not report.problems
    assert report.notes[1:] == [
        "events.tfrecord.gz record 2: label '4' is not 0 or 1",
        "events.tfrecord.gz record 3: no user id: column 'user' is empty",
    ]
    assert report.rows == {"events": 4096}
