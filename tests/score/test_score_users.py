"""The whole command: killed at any moment it continues, and the output is the one of an undisturbed run."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.score import fakes
from tests.score.people import delimited, parquet, people
from twotower_tf.cli.main import main
from twotower_tf.config import DataConfig
from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.score import exclusions, units, worker, worker_pool
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_users import score

ROOT = Path(__file__).resolve().parents[2]
REAL = {"score_unit": worker.score_unit, "warm_up": worker.warm_up}
# Scores with fake workers; `argv` is export_dir, users, output.
SCRIPT = """
import signal
import sys
from pathlib import Path
from tests.score import fakes
from twotower_tf.score import units, worker, worker_pool, worker_sizing
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_users import score

signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background of a shell
worker.score_unit, worker.warm_up = fakes.score_unit, fakes.warm_up
units.ROWS, worker_sizing.LARGEST, worker_sizing.SMALLEST, worker_pool.SMALLEST = 500, 256, 64, 64
export_dir, users, output = sys.argv[1:]
score(Options(export_dir=Path(export_dir), output=Path(output), users=users, workers=2, k=5, at=0))
"""


def tree(output):
    """Every file of the output but the journal, and the summary's figures that no clock decides."""
    found = {
        path.name: path.read_bytes() for path in output.iterdir() if path.is_file() and path.name != "_summary.json"
    }
    summary = json.loads((output / "_summary.json").read_text())
    kept = ("users", "quarantined", "answers", "scores", "distinct_items", "files")
    return {**found, "summary": {name: summary.get(name) for name in kept}}


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """Six units, with a row in each that has no id."""
    path = tmp_path_factory.mktemp("scored") / "users.parquet"
    rows = people(3000)
    for number in range(250, 3000, 500):
        rows[number]["user_id"] = None
    parquet(path, rows, row_group_size=250)
    return path


@pytest.fixture(scope="module")
def faked():
    with pytest.MonkeyPatch.context() as patch:
        fakes.install(patch)
        patch.setattr(units, "ROWS", 500)
        patch.setattr("twotower_tf.score.worker_sizing.LARGEST", 256)
        patch.setattr("twotower_tf.score.worker_sizing.SMALLEST", 64)
        patch.setattr(worker_pool, "SMALLEST", 64)
        yield


@pytest.fixture(scope="module")
def undisturbed(export_dir, users, faked):
    """The output of a scoring that nothing happened to."""
    output = users.parent / "whole"
    summary = score(Options(export_dir=export_dir, output=output, users=str(users), workers=2, k=5, at=0))
    assert (summary["users"], summary["quarantined"], summary["files"]) == (2994, 6, 6)
    return output


@pytest.fixture
def whole(undisturbed, tmp_path):
    """Its files; a copy of them is in `whole` below the test's own directory."""
    shutil.copytree(undisturbed, tmp_path / "whole")
    return tree(undisturbed)


def _use_real_workers(monkeypatch):
    for name, function in REAL.items():
        monkeypatch.setattr(worker, name, function)


def start(export_dir, users, output, **environment):
    command = [sys.executable, "-c", SCRIPT, str(export_dir), str(users), str(output)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=subprocess.DEVNULL
    )


def test_every_row_is_answered_once_and_in_order(tmp_path, users, whole):
    parts = sorted(name for name in whole if name.startswith("part-"))
    assert parts == [f"part-{number:06d}.parquet" for number in range(6)]
    found = pq.read_table(tmp_path / "whole")  # files other than parts have names that readers skip
    wanted = [each for each in pq.read_table(users)["user_id"].to_pylist() if each is not None]
    assert found["user_id"].to_pylist() == wanted
    lines = [json.loads(line) for line in whole["_quarantine.jsonl"].decode().splitlines()]
    assert [line["row"] for line in lines] == [251, 751, 1251, 1751, 2251, 2751]
    assert lines[0]["file"].endswith("/users.parquet")
    assert {line["reason"] for line in lines} == {"no user id: column 'user_id' is empty"}
    assert json.loads(lines[0]["text"])["user_id"] is None


def test_workers_that_die_are_replaced_and_told(tmp_path, export_dir, users, whole, monkeypatch):
    """Two are killed, one runs out of memory; their units go on with fewer rows at a time."""
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for name in ("kill-1", "kill-2", "memory-3"):
        (tokens / name).touch()
    monkeypatch.setenv(fakes.TOKENS, str(tokens))
    lines = []
    summary = score(
        Options(export_dir=export_dir, output=tmp_path / "out", users=str(users), workers=2, k=5, at=0),
        log=lines.append,
    )
    assert tree(tmp_path / "out") == whole
    assert len(summary["restarts"]) == len(lines) == 3
    whys = sorted(restart["why"] for restart in summary["restarts"])
    killed = "killed, as the kernel does when memory runs out"
    assert whys == [killed, killed, "out of memory: 4 GB wanted"]
    assert {restart["rows_at_a_time"] for restart in summary["restarts"]} == {64}
    assert all(line.endswith("another one continues, 64 rows at a time") for line in lines)
    assert {restart["where"].partition(", ")[2] for restart in summary["restarts"]} <= {
        f"rows {first:,} to {first + 499:,}" for first in range(1, 3000, 500)
    }


def test_workers_that_have_nothing_to_do_end(tmp_path, export_dir, users, faked):
    """They start before the users are looked at, and as many as there may be units for."""
    pq.write_table(pa.table({"user_id": ["u1"]}), tmp_path / "odd.parquet")
    common = {"export_dir": export_dir, "k": 5, "at": 0}
    with pytest.raises(DataError, match="user_features: unknown column in .*odd.parquet"):
        score(Options(output=tmp_path / "a", users=str(tmp_path / "odd.parquet"), workers=3, **common))
    assert multiprocessing.active_children() == []
    parquet(tmp_path / "few.parquet", people(20))
    summary = score(Options(output=tmp_path / "b", users=str(tmp_path / "few.parquet"), workers=3, **common))
    assert (summary["users"], summary["files"], summary["restarts"]) == (20, 1, [])
    assert multiprocessing.active_children() == []


def test_a_unit_that_nobody_survives_is_told(tmp_path, export_dir, users, faked, monkeypatch):
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for number in range(40):
        (tokens / f"kill-{number}").touch()
    monkeypatch.setenv(fakes.TOKENS, str(tokens))
    monkeypatch.setattr(worker_pool, "_MAX_DEATHS", 2)
    with pytest.raises(DataError) as raised:
        score(Options(export_dir=export_dir, output=tmp_path / "out", users=str(users), workers=1, k=5, at=0))
    assert str(raised.value).endswith(
        "2 workers died while scoring it, the last with 64 rows at a time: killed, as the kernel does when memory "
        "runs out; give each more memory with fewer --workers"
    )
    assert "users.parquet, rows 1 to 500: " in str(raised.value)


def _children(pid):
    """Ids of the processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, export_dir, users, faked, sent):
    """Interrupted or killed in the middle of units that would take a minute."""
    process = start(export_dir, users, tmp_path / "out", **{fakes.SECONDS: "30"})
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".*part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = _children(process.pid)
    assert len(children) >= 2
    process.send_signal(sent)
    process.wait(20)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_invalid_input_that_a_worker_meets_is_one_line(tmp_path, export_dir, faked):
    """Bytes that are not text, in the third row group: after the rows that the plan looks at."""
    columns = {name: pa.array([f"{name}{row}".encode() for row in range(15_000)]) for name in ("user_id", "country")}
    columns["country"] = pa.array([b"DE"] * 14_999 + [b"\xff\xfe"])
    pq.write_table(pa.table(columns), tmp_path / "users.parquet", row_group_size=500)
    absent = ("age", "interests", "device_type", "timestamp", "history")
    common = {"export_dir": export_dir, "users": str(tmp_path / "users.parquet"), "absent": absent, "k": 5, "at": 0}
    with pytest.raises(DataError) as raised:
        score(Options(output=tmp_path / "out", workers=2, **common))
    assert str(raised.value) == "column 'country': its bytes are not UTF-8 text"
    assert multiprocessing.active_children() == [] and not (tmp_path / "out" / "_summary.json").exists()


def test_a_full_disk_that_a_worker_meets_is_one_line(tmp_path, export_dir, users, faked, monkeypatch, capsys):
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "disk-1").touch()
    monkeypatch.setenv(fakes.TOKENS, str(tmp_path / "tokens"))
    flags = [f"--export_dir={export_dir}", f"--users={users}", f"--output={tmp_path}/out", "--k=5", "--workers=1"]
    assert main(["score", *flags]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "twotower score: /answers/part-000000.parquet: No space left on device"


def test_the_parent_killed(tmp_path, export_dir, users, whole):
    _check_killed_at_random(tmp_path, export_dir, users, whole, moments=2)


@pytest.mark.quality
def test_the_parent_and_its_workers_killed_at_twenty_moments(tmp_path, export_dir, users, whole):
    _check_killed_at_random(tmp_path, export_dir, users, whole, moments=20)


def _check_killed_at_random(tmp_path, export_dir, users, whole, moments):
    """The parent falls at random moments; some of its workers a little before."""
    rng = random.Random(moments)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    output = tmp_path / "out"
    for moment in range(moments):
        if moment % 2:
            (tokens / f"kill-{moment}").touch()
        process = start(export_dir, users, output, **{fakes.SECONDS: "0.1", fakes.TOKENS: str(tokens)})
        deadline = time.monotonic() + 60
        begun = rng.randint(0, 2)  # wait until so many more units are noted, then a little longer
        notes = len(list(output.glob("_journal/unit-*.json")))
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(output.glob("_journal/unit-*.json"))) >= min(6, notes + begun):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(export_dir, users, output).wait() == 0
    assert tree(output) == whole
    assert not list(output.glob("*.tmp-*")) and not list(output.glob(".tmp-*"))


def test_another_command_is_refused(tmp_path, export_dir, users, whole):
    common = {"export_dir": export_dir, "output": tmp_path / "whole", "users": str(users), "workers": 1}
    before = tree(tmp_path / "whole")
    for change, problem in (
        ({"k": 6}, "was begun with k 5, not 6"),
        ({"k": 5, "format": "tsv"}, "was begun with format 'parquet', not 'tsv'"),
        ({"k": 5, "filter": "price > 1"}, "was begun with filter '', not 'price > 1'"),
        ({"k": 5, "names": True}, "was begun with names False, not True"),
        ({"k": 5, "at": 60}, "was begun with at 0, not 60"),
    ):
        with pytest.raises(DataError) as raised:
            score(Options(**{**common, **change}))
        assert str(raised.value) == (
            f"{tmp_path / 'whole'}: {problem}; choose another --output, or start over with --resume=false"
        )
    stamp = users.stat().st_mtime_ns
    os.utime(users, ns=(1, 1))
    with pytest.raises(DataError, match="was begun with other input files: .*users.parquet has changed since; choose"):
        score(Options(**common, k=5))
    os.utime(users, ns=(stamp, stamp))
    assert tree(tmp_path / "whole") == before
    summary = score(Options(**common, k=6), resume=False)
    assert summary["users"] == 2994 and tree(tmp_path / "whole") != before


def test_the_same_command_again_does_nothing(tmp_path, export_dir, users, whole):
    output = tmp_path / "whole"
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    score(Options(export_dir=export_dir, output=output, users=str(users), workers=2, k=5))
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == stamps
    (output / "part-000002.parquet").unlink()
    summary = score(Options(export_dir=export_dir, output=output, users=str(users), workers=2, k=5))
    assert (summary["files"], summary["files_before"]) == (6, 5)
    assert tree(output) == whole


def test_a_directory_of_somebody_else_is_left_alone(tmp_path, export_dir, users, faked):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="it has 'thesis.txt', which score did not write"):
        score(Options(export_dir=export_dir, output=tmp_path / "mine", users=str(users)))
    with pytest.raises(DataError, match="--output: invalid directory .* .it is a file"):
        score(Options(export_dir=export_dir, output=users, users=str(users)))


def test_users_that_change_while_they_are_scored_are_refused(tmp_path, export_dir, users, faked):
    """Ten rows more after the first unit has been written: answers would be of two files, or of a part of one."""
    path = tmp_path / "users.parquet"
    shutil.copy(users, path)
    changes = []

    def progress(stage, done, total):
        if not changes:
            changes.append(done)
            parquet(tmp_path / "new.parquet", people(3010), row_group_size=250)
            (tmp_path / "new.parquet").rename(path)

    options = Options(export_dir=export_dir, output=tmp_path / "out", users=str(path), workers=1, k=5, at=0)
    with pytest.raises(DataError, match=r"users\.parquet: changed while it was read; run again when no process writes"):
        score(options, progress=progress)
    assert changes and not (tmp_path / "out" / "_summary.json").exists()
    with pytest.raises(DataError, match=r"was begun with other input files: .*users\.parquet has changed since"):
        score(options)
    assert score(options, resume=False)["users"] == 3010


def test_pairs_that_change_while_they_are_sorted_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "pairs.csv"
    path.write_text("user_id,item_id\nu1,i1\n")
    data = DataConfig(user_id="user_id", item_id="item_id")
    sort = exclusions._sort

    def meanwhile(*arguments):
        path.write_text("user_id,item_id\nu1,i2\nu1,i3\n")
        sort(*arguments)

    monkeypatch.setattr(exclusions, "_sort", meanwhile)
    with pytest.raises(DataError, match=r"pairs\.csv: changed while it was read"):
        exclusions.build(tmp_path / "sorted", exclusions.find(data, str(path)), data, {}, ["i1", "i2"], "100MB", 1)
    assert not (tmp_path / "sorted").exists()


def test_two_scorings_into_one_directory(tmp_path, export_dir, users, faked):
    process = start(export_dir, users, tmp_path / "out", **{fakes.SECONDS: "0.5"})
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "_journal" / "plan.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(ArtifactError, match=rf"out: in use by process {process.pid} \(.*; wait until it has ended"):
        score(Options(export_dir=export_dir, output=tmp_path / "out", users=str(users), k=5, at=0))
    process.kill()
    process.wait()


def test_the_command_with_real_workers(tmp_path, export_dir, capsys, monkeypatch):
    _use_real_workers(monkeypatch)
    delimited(tmp_path / "users.csv", people(300))
    flags = [f"--export_dir={export_dir}", f"--users={tmp_path}/users.csv", f"--output={tmp_path}/out", "--k=3"]
    assert main(["score", *flags, "--format=tsv", "--workers=1"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in (tmp_path / "out" / "part-000000.tsv").read_text().splitlines()]
    assert [line[0] for line in lines] == [f"u{number:06d}" for number in range(300)]
    assert all(len(line[1].split(",")) == len(line[2].split(",")) == 3 and line[3] == "7" for line in lines)
    summary = json.loads(out.splitlines()[-1])
    assert summary == json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["users"] == 300 and summary["answers"] == 900 and summary["restarts"] == []
    assert 2e8 < summary["peak_worker_bytes"] < 2e9
    assert out.startswith(f"300 users in {tmp_path}/out, 0 rows quarantined, ")
    assert "score: 300 of 300 (100%)" in err and re.search(r"\d [MG]B per worker", err)


@pytest.mark.quality
def test_memory_is_flat(tmp_path, export_dir, monkeypatch):
    """Of a worker, between half a million users and two million, of ten thousand at a time; every user once."""
    _use_real_workers(monkeypatch)
    rows = people(20_000)
    peaks = {}
    for copies in (25, 100):
        directory = tmp_path / f"users-{copies}"
        directory.mkdir()
        parquet(directory / "part-000.parquet", rows, row_group_size=10_000)
        for number in range(1, copies):
            os.link(directory / "part-000.parquet", directory / f"part-{number:03d}.parquet")
        summary = score(
            Options(export_dir=export_dir, output=tmp_path / f"out-{copies}", users=str(directory), workers=1)
        )
        assert summary["users"] == 20_000 * copies
        peaks[copies] = summary["peak_worker_bytes"]
    print(f"peak of a worker: {peaks}")
    assert peaks[100] < 1.1 * peaks[25] and peaks[100] < 1.5e9
