"""One writer or several readers; a lock ends with its process, and its error names the holder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twotower_tf import artifacts, locks
from twotower_tf.errors import ArtifactError

HOLD = """
import sys, time
from pathlib import Path
from twotower_tf import artifacts, locks
path = Path(sys.argv[2])
holding = {
    "working": lambda: locks.hold_directory(path),
    "reading": lambda: locks.hold_directory(path, shared=True),
    "directory": lambda: artifacts.atomic_directory(path),
    "file": lambda: artifacts.atomic_file(path),
}
with holding[sys.argv[1]]():
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def held(tmp_path: Path, how: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "hold.py"
    script.write_text(HOLD)
    process = subprocess.Popen([sys.executable, str(script), how, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def refusal(path: Path, *, shared: bool = False) -> str:
    with pytest.raises(ArtifactError) as caught, locks.hold_directory(path, shared=shared):
        pass
    return str(caught.value)


def test_a_second_writer_is_refused_with_the_holders_command(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with held(tmp_path, "working", path) as process:
        expected = (
            f"{path}: in use by process {process.pid} (hold.py working {path}); "
            "wait until it has ended, or choose another directory"
        )
        assert refusal(path) == expected
        assert refusal(path, shared=True) == expected
    with locks.hold_directory(path):  # killed: the lock ended with it
        assert refusal(path).startswith(f"{path}: in use by process {os.getpid()} (")


def test_readers_work_side_by_side_and_keep_writers_out(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    with held(tmp_path, "reading", path) as process:
        with locks.hold_directory(path, shared=True):
            pass
        assert "in use by" in refusal(path)
        assert process.poll() is None
    with locks.hold_directory(path):
        pass


def test_the_last_holder_removes_the_lock_file(tmp_path: Path) -> None:
    with locks.hold_directory(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []
    with locks.hold_directory(tmp_path, shared=True):
        with locks.hold_directory(tmp_path, shared=True):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        assert "in use by" in refusal(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_writers_in_turn_never_work_together(tmp_path: Path) -> None:
    """Each removes the lock file at its end, which others may have opened already."""
    script = tmp_path / "turns.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom twotower_tf import errors, locks\n"
        "place, mark, done = Path(sys.argv[1]), Path(sys.argv[1]) / 'mark', 0\n"
        "while done < 60:\n"
        "    try:\n"
        "        with locks.hold_directory(place):\n"
        "            mark.open('x').close()\n"
        "            time.sleep(0.0005)\n"
        "            mark.unlink()\n"
        "            done += 1\n"
        "    except errors.ArtifactError:\n"
        "        pass\n"
    )
    place = tmp_path / "place"
    started = [subprocess.Popen([sys.executable, str(script), str(place)], stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()[-400:]
    assert list(place.iterdir()) == []


def test_a_reader_of_a_missing_directory_makes_none(tmp_path: Path) -> None:
    with locks.hold_directory(tmp_path / "none", shared=True):
        assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_wrote_into_the_lock_file_is_not_said(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for text in ("", "no JSON", json.dumps({"pid": ended.pid, "host": os.uname().nodename, "command": "gone"})):
        (tmp_path / ".lock").write_text(text)
        with (tmp_path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert refusal(tmp_path) == (
                f"{tmp_path}: in use by another process; wait until it has ended, or choose another directory"
            )


def test_a_directory_that_is_being_written_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with held(tmp_path, "directory", path):
        with pytest.raises(ArtifactError) as caught, artifacts.atomic_directory(path):
            pass
        assert str(caught.value) == (
            f"{path}: another process is writing it; wait until it has ended, or choose another"
        )
        # work under other names goes on, and leaves this one alone
        for name in ("out-2", "ou", "out2"):
            with artifacts.atomic_directory(tmp_path / name):
                pass
        assert len(list(tmp_path.glob(".tmp-out-*"))) == 1
    with artifacts.atomic_directory(path):
        pass
    assert list(tmp_path.glob(".tmp-*")) == []


def test_the_work_of_a_longer_name_is_left_alone(tmp_path: Path) -> None:
    """`NAME-2` begins as a leftover of `NAME` does."""
    with held(tmp_path, "directory", tmp_path / "out-2"):
        (working,) = tmp_path.glob(".tmp-out-2-*")
        with artifacts.atomic_directory(tmp_path / "out"):
            pass
        assert working.is_dir()
    with artifacts.atomic_directory(tmp_path / "out", replace=True):
        pass
    assert working.is_dir()  # killed by now, and still not a leftover of `out`
    with artifacts.atomic_directory(tmp_path / "out-2"):
        pass
    assert not working.exists()


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with held(tmp_path, "file", path):
        (working,) = tmp_path.glob(".tmp-*")
        artifacts.write_text(path, "mine")
        assert working.exists() and path.read_text() == "mine"
    artifacts.write_text(path, "again")
    assert not working.exists()


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*b?", "x" * 255, "ü" * 127, "[!a]-{1}"])
def test_names_with_patterns_and_long_ones_are_names_like_others(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), artifacts.atomic_directory(tmp_path / name, replace=True):
            raise KeyError
        with artifacts.atomic_directory(tmp_path / name, replace=True) as temporary:
            (temporary / "part").write_text("1")
        artifacts.write_text(tmp_path / name / name, "2")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted([name, "part"])


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_lock_file_links_to_is_not_written(tmp_path: Path, shared: bool) -> None:
    """A directory from elsewhere, as an archive may bring one."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    lock = tmp_path / "run" / locks.NAME
    for target in ("precious", "new"):
        lock.symlink_to(tmp_path / target)
        with pytest.raises(ArtifactError, match=r"invalid lock file \(expected a plain file\); remove it$"):
            with locks.hold_directory(tmp_path / "run", shared=shared):
                pass
        lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(ArtifactError, match="invalid lock file"), locks.hold_directory(tmp_path / "run", shared=shared):
        pass
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "new").exists()
