"""Files that change while they are read: an error that names the file, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prepare.test_key_columns import experiment
from tests.prepare.test_preparation import write_csv
from twotower_tf.config import RandomSplit
from twotower_tf.errors import DataError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.tables import input_files


def rewritten(path: Path) -> None:
    """Other bytes of the same length, a moment later."""
    text = path.read_bytes()
    path.write_bytes(text.replace(b"u1", b"u2"))
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replaced(path: Path) -> None:
    """Another file of the same size and time is renamed over it."""
    status = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes().replace(b"u1", b"u2"))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def grown(path: Path) -> None:
    with path.open("a") as file:
        file.write("u9,i9,9,1\n")


CHANGES = {"rewritten": rewritten, "replaced": replaced, "grown": grown, "removed": Path.unlink}


@pytest.mark.parametrize("moment", [0, 3, 7])
@pytest.mark.parametrize("table", ["events", "items", "users"])
@pytest.mark.parametrize("change", CHANGES)
def test_prepare_refuses_a_file_that_changes(tmp_path: Path, change: str, table: str, moment: int) -> None:
    rows = [{"user": f"u{n % 3}", "item": f"i{n % 4}", "time": n, "click": 1} for n in range(40)]
    write_csv(tmp_path / "events.csv", rows)
    write_csv(tmp_path / "items.csv", [{"item": f"i{n}", "colour": "red"} for n in range(4)])
    write_csv(tmp_path / "users.csv", [{"user": f"u{n}", "age": 30} for n in range(3)])
    config = experiment(tmp_path, items="items.csv", users="users.csv", split=RandomSplit(0, 0))
    path = tmp_path / f"{table}.csv"

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "prepare" and done == moment and not steps:
            steps.append(done)
            CHANGES[change](path)

    steps: list[int] = []
    word = "was removed" if change == "removed" else "changed"
    with pytest.raises(
        DataError, match=rf"^{table}\.csv: {word} while it was read; run again when no process writes to"
    ):
        prepare_log(config, tmp_path / "run", progress=progress)
    assert steps == [moment]
    assert not (tmp_path / "run" / "prepared").exists()


def test_files_that_stay_as_they_are_pass(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    sources = input_files.find_files(tmp_path, "a.csv", "data.events")
    with input_files.FileSnapshot(sources).held():
        (tmp_path / "a.csv").read_bytes()
    with pytest.raises(DataError, match=r"^no number$"), input_files.FileSnapshot(sources).held():
        raise DataError("no number")


@pytest.mark.parametrize("change", CHANGES)
def test_what_cannot_be_read_of_a_changed_file_is_the_changes_doing(tmp_path: Path, change: str) -> None:
    (tmp_path / "a.csv").write_text("x\nu1\n")
    make: Callable[[Path], None] = CHANGES[change]
    with pytest.raises(DataError, match=r"^a\.csv: (changed|was removed) while it was read"):
        with input_files.FileSnapshot(input_files.find_files(tmp_path, "a.csv", "data.events")).held():
            make(tmp_path / "a.csv")
            raise DataError("a.csv:2: 1 field, the header has 4")
