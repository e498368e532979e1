"""Random damage to small files: nothing but one clear line, no hang, and no row lost that the damage did not touch.

Every mutation is determined by its number. `python -m tests.tables.test_mutated_files FIRST LAST` runs a range and
prints what fails.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tables.test_tfrecords import example
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, Numeric, RandomSplit, TrainConfig
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.onboarding.validate_inputs import validate_tables
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.tables.crc32c import masked_crc32c
from twotower_tf.tables.duckdb_engine import open_engine

SECONDS = 120  # of one mutation, at most
ROWS = 24
Row = tuple[str, str, int, int]

# what is written into text: everything that means something to some reader
PIECES = [
    b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"\\", b"\0", b"\t", b";", b"|", b"{", b"}", b"[", b"]", b":", b"'", b" ",
    b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"null", b"NaN", b"1e999", b"-", b"9" * 40, b"\\u0000", b"true",
    b'"x"', b'",', b',"', b'\n"', b'"\n', b"\x1a", b"\x0b", "é".encode(), "\U0001f600".encode(), b"[[1]]", b'{"a":1}',
]  # fmt: skip


def rows() -> list[Row]:
    return [(f"u{number}", f"i {number % 7}", 1_700_000_000 + number, number % 2) for number in range(ROWS)]


def csv_lines() -> list[bytes]:
    """A header and the rows; a third of them quoted, one with a line end in a field."""
    lines = ["user_id,item_id,timestamp,label,age,note"]
    for number, (user, item, time, label) in enumerate(rows()):
        if number % 3 == 0:
            lines.append(f'"{user}","{item}","{time}","{label}","{number}","say ""{number}"", x"')
        else:
            lines.append(f"{user},{item},{time},{label},{number},n{number}")
    return [f"{line}\n".encode() for line in lines]


def json_lines() -> list[bytes]:
    names = ("user_id", "item_id", "timestamp", "label")
    objects = [dict(zip(names, row, strict=True)) | {"age": row[2] % 9, "note": ["a", None]} for row in rows()]
    return [f"{json.dumps(each)}\n".encode() for each in objects]


def mutate_lines(rng: random.Random, lines: list[bytes], first: int) -> tuple[bytes, set[int]]:
    """Damages lines from the place `first` on; returns the file, and the places of lines that are not as they were."""
    touched: set[int] = set()
    found = list(lines)
    for _ in range(rng.randint(1, 2)):
        place = rng.randrange(first, len(lines))
        line = found[place]
        at = rng.randrange(max(1, len(line)))
        kind = rng.randrange(7)
        touched.add(place)
        if kind == 0:
            found[place] = line[:at] + rng.choice(PIECES) + line[at:]
        elif kind == 1:
            found[place] = line[:at] + line[at + rng.randint(1, 3) :]
        elif kind == 2:
            found[place] = line[:at] + bytes([rng.randrange(256)]) + line[at + 1 :]
        elif kind == 3:
            found[place] = b""
        elif kind == 4:
            found[place] = line + b"".join(rng.choice(PIECES) for _ in range(rng.randint(1, 4))) + b"\n"
        elif kind == 5:
            found[place] = line.rstrip(b"\n") + rng.choice([b"\r\n", b"\r", b"\n\n", b" \n", b",\n", b""])
        else:
            found[place] = b"".join(rng.choice(PIECES) for _ in range(rng.randint(1, 6))) + b"\n"
        if not found[place].endswith(b"\n"):
            touched.add(place + 1)  # one line with the next
    return b"".join(found), touched


def delimited(rng: random.Random, path: Path) -> tuple[Path, set[int] | None]:
    """A damaged CSV file; None instead of the touched rows where the header is damaged, or the file cut off."""
    lines = csv_lines()
    kind = rng.random()
    path = path.with_suffix(".csv")
    if kind < 0.15:
        text, _ = mutate_lines(rng, lines[:1], 0)
        path.write_bytes(text + b"".join(lines[1:]))
        return path, None
    if kind < 0.25:
        whole = b"".join(lines)
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] if rng.random() < 0.5 else whole[at:])
        return path, None
    text, touched = mutate_lines(rng, lines, 1)
    path.write_bytes(text)
    return path, {place - 1 for place in touched}


def json_objects(rng: random.Random, path: Path) -> tuple[Path, set[int] | None]:
    text, touched = mutate_lines(rng, json_lines(), 0)
    path = path.with_suffix(".jsonl")
    path.write_bytes(text)
    # the first line decides whether it is one array or objects over several lines
    return path, None if 0 in touched else touched


def parquet(rng: random.Random, path: Path) -> tuple[Path, set[int] | None]:
    """Some bytes are others: the values may be others, too, since pages have no checksum."""
    path = path.with_suffix(".parquet")
    names = ("user_id", "item_id", "timestamp", "label")
    columns: dict[str, Any] = dict(zip(names, map(list, zip(*rows(), strict=True)), strict=True))
    columns |= {"age": list(range(ROWS)), "note": [["a", None]] * ROWS}
    odd = rng.randrange(6)
    if odd == 0:
        columns["age"] = [{"a": 1}] * ROWS
    elif odd == 1:
        columns["age"] = [None] * ROWS
    elif odd == 2:
        columns["user_id"] = [user.encode() if number else b"\xff" for number, user in enumerate(columns["user_id"])]
    pq.write_table(pa.table(columns), path, compression=rng.choice(["none", "snappy", "zstd"]))
    if odd < 3:
        return path, None
    whole = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    path.write_bytes(whole[: rng.choice([len(whole)] * 3 + [rng.randrange(len(whole))])])
    return path, None


def records(rng: random.Random, path: Path) -> tuple[Path, set[int] | None]:
    """Damage inside payloads is set aside record by record; sometimes the checksum is that of the damaged bytes."""
    path = path.with_suffix(".tfrecord")
    payloads = [
        example(user_id=user, item_id=item, timestamp=time, label=label, age=1.5, note="x")
        for user, item, time, label in rows()
    ]
    touched = set(rng.sample(range(ROWS), rng.randint(1, 2)))
    honest = rng.random() < 0.5
    framed = []
    for number, payload in enumerate(payloads):
        sound = payload
        if number in touched:
            at = rng.randrange(len(payload))
            kind = rng.randrange(3)
            if kind == 0:
                payload = payload[:at] + bytes([rng.randrange(256)]) + payload[at + 1 :]
            elif kind == 1:
                payload = payload[:at] + rng.choice(PIECES) + payload[at:]
            else:
                payload = payload[:at]
        length = struct.pack("<Q", len(payload))
        total = masked_crc32c(payload if honest else sound)
        framed.append(length + struct.pack("<I", masked_crc32c(length)) + payload + struct.pack("<I", total))
    whole = b"".join(framed)
    if rng.random() < 0.2:  # anywhere, lengths included
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([rng.randrange(256)]) + whole[at + rng.randrange(3) :])
        return path, None
    path.write_bytes(whole)
    return path, touched


KINDS: list[Callable[[random.Random, Path], tuple[Path, set[int] | None]]] = [delimited, json_objects, parquet, records]


def item_table(rng: random.Random, path: Path) -> tuple[str, set[str]]:
    """A damaged item table; returns its name, and the items whose rows are as they were."""
    names = [f"i {number}" for number in range(12)]
    lines = [b"item_id;colour\n", *(f'"{name}";"of ""{name}"""\n'.encode() for name in names)]
    text, touched = mutate_lines(rng, lines, 1)
    path.write_bytes(text)
    again = {name for name in names if text.count(f'"{name}";'.encode()) > 1}  # damage made one id another: newer wins
    return path.name, {name for place, name in enumerate(names) if place + 1 not in touched} - again


def colours(root: Path) -> dict[str, str | None]:
    return {row["item_id"]: row["colour"] for row in Prepared.open(root).items(["item_id", "colour"]).to_pylist()}


def config_of(path: Path, items: str) -> ExperimentConfig:
    return ExperimentConfig(
        name="test",
        data=DataConfig(
            root=str(path.parent), events=path.name, items=items, label="label", split=RandomSplit(0.0, 0.0)
        ),
        item_features=(Hash("item_id", buckets=10),),
        user_features=(Hash("user_id", buckets=10), Numeric("age"), Hash("note", buckets=10)),
        train=TrainConfig(batch_size=1),
    )


@contextlib.contextmanager
def time_limit(number: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"mutation {number} takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def used(root: Path) -> Counter[Row]:
    prepared = Prepared.open(root)
    users = pq.read_table(prepared.paths.users).column("user_id").to_pylist()
    items = prepared.item_ids()
    columns = prepared.columns("train", ["user_row", "item_row", "timestamp", "label"])
    return Counter(
        (users[user], str(items[item]), int(time), int(label))
        for user, item, time, label in zip(*columns.values(), strict=True)
    )


def run_mutation(number: int, root: Path) -> None:
    """Damages a file, validates and prepares it, and compares the rows.

    Raises:
        AssertionError: where the two disagree, an error has several lines, or a good row is lost.
    """
    rng = random.Random(number)
    path, touched = KINDS[number % len(KINDS)](rng, root / "log")
    items, kept_items = item_table(rng, root / "items.csv") if rng.random() < 0.3 else ("", set())
    config = config_of(path, items)
    with open_engine(root / "work", "1GB", 1, directories=[root]) as connection:
        (root / "work" / "samples").mkdir()
        report = validate_tables(connection, config, root / "work" / "samples")
    refused = ""
    try:
        prepare_log(config, root / "run", threads=1, memory_limit="1GB")
    except (DataError, ConfigError) as error:
        refused = str(error)
    for line in [refused, *report.problems, *report.notes]:
        assert "\n" not in line, line
    assert bool(refused) == bool(report.problems), (refused, report.problems)
    if touched is not None:
        assert not refused, refused
        kept = Counter(row for place, row in enumerate(rows()) if place not in touched)
        lost = kept - used(root / "run")
        assert not lost, lost
    if items and not refused:
        found = colours(root / "run")
        assert {name: found.get(name) for name in kept_items} == {name: f'of "{name}"' for name in kept_items}


def run_range(first: int, last: int) -> list[str]:
    """Runs mutations; returns a line for each that fails."""
    failed = []
    for number in range(first, last):
        root = Path(tempfile.mkdtemp(prefix="twotower-mutation-"))
        try:
            with time_limit(number):
                run_mutation(number, root)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            failed.append(f"{number}: {type(error).__name__}: {str(error)[:300]} ({where.filename}:{where.lineno})")
        finally:
            shutil.rmtree(root)
    return failed


def test_forty_mutations() -> None:
    assert run_range(0, 40) == []


@pytest.mark.quality
def test_five_thousand_mutations() -> None:
    assert run_range(0, 5_000) == []


if __name__ == "__main__":
    print("\n".join(run_range(int(sys.argv[1]), int(sys.argv[2]))))
