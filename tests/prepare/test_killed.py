"""A preparation that is killed starts again and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.prepare.test_preparation import experiment, random_log, tree, write_csv
from twotower_tf import config as configuration

ROOT = Path(__file__).resolve().parents[2]
# Prepares and encodes; kills itself at the progress report whose number is in argv[3].
SCRIPT = """
import itertools, os, signal, sys
from pathlib import Path
from twotower_tf import config as configuration
from twotower_tf.prepare import training_rows
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared

training_rows.count_part_rows = lambda columns: 1 << 12
config, run_dir, last = configuration.load(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
reports = itertools.count()

def progress(stage, done, total):
    if next(reports) == last:
        os.kill(os.getpid(), signal.SIGKILL)

since = Path(sys.argv[4]) if len(sys.argv) > 4 else None
prepare_log(config, run_dir, since=since, progress=progress)
if last >= 0:
    from twotower_tf.features.encode_rows import encode
    encode(config, Prepared.open(run_dir), progress)
"""


def start(config: Path, run_dir: Path, last: int, *since: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(config), str(run_dir), str(last), *since]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    log = random_log(1, rows=40_000, users=300, items=200, times=3000)
    write_csv(tmp_path / "events.csv", sorted(log, key=lambda row: row["time"]))
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(experiment(tmp_path)), encoding="utf-8")
    return path


@pytest.mark.quality
def test_killed_between_and_within_its_steps(tmp_path: Path, config: Path) -> None:
    assert start(config, tmp_path / "whole", 10_000).wait() == 0
    for last in (4, 14, 18, 22):  # at a step, among the parts of the examples, among those of the encoding
        assert start(config, tmp_path / "run", last).wait() == -signal.SIGKILL
        assert not (tmp_path / "run" / "prepared" / "encoded").exists()
    assert (tmp_path / "run" / "prepared" / "manifest.json").exists()  # the last one fell while it encoded
    assert start(config, tmp_path / "run", 10_000).wait() == 0
    found = tree(tmp_path / "run")
    assert found == tree(tmp_path / "whole")
    assert "prepared/encoded/train/user.ids.npy" in found
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["prepared"]


def test_killed_at_any_moment(tmp_path: Path, config: Path) -> None:
    begin = time.monotonic()
    assert start(config, tmp_path / "whole", -1).wait() == 0
    longest = time.monotonic() - begin
    expected = tree(tmp_path / "whole")
    for seed in range(4):
        process = start(config, tmp_path / "run", -1)
        time.sleep(random.Random(seed).uniform(0.3, 1) * longest)
        process.kill()
        process.wait()
        published = tmp_path / "run" / "prepared"
        assert not published.exists() or tree(tmp_path / "run") == expected or list(published.parent.glob(".tmp-*"))
    assert start(config, tmp_path / "run", -1).wait() == 0
    assert tree(tmp_path / "run") == expected


def test_killed_while_it_continues_an_earlier_run(tmp_path: Path) -> None:
    log = sorted(random_log(2, rows=20_000, users=300, items=200, times=3000), key=lambda row: row["time"])
    write_csv(tmp_path / "log" / "1.csv", log[:10_000])
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(experiment(tmp_path, events="log")), encoding="utf-8")
    assert start(path, tmp_path / "earlier", -1).wait() == 0
    before = tree(tmp_path / "earlier")
    write_csv(tmp_path / "log" / "2.csv", log[10_000:])
    since = str(tmp_path / "earlier")
    assert start(path, tmp_path / "whole", -1, since).wait() == 0
    for last in (2, 9):
        assert start(path, tmp_path / "run", last, since).wait() == -signal.SIGKILL
        assert not (tmp_path / "run" / "prepared").exists()
    assert start(path, tmp_path / "run", -1, since).wait() == 0
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")
    assert tree(tmp_path / "earlier") == before
