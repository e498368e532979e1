"""Commands that would work in one run directory at once: the second is refused before it changes anything."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf import config as configuration
from twotower_tf import locks
from twotower_tf.artifacts import RunPaths
from twotower_tf.cli.main import main
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, RandomSplit

CONFIG = """
from twotower_tf.config import *

def get_config():
    return ExperimentConfig(
        name="small", data=DataConfig(root={root!r}, events="events.parquet", timestamp="", split=RandomSplit()),
        item_features=(Hash("item_id", buckets=100),), user_features=(Hash("user_id", buckets=100),),
    )
"""
SMALL = ExperimentConfig(
    name="small",
    data=DataConfig(events="events.parquet", timestamp="", split=RandomSplit()),
    item_features=(Hash("item_id", buckets=100),),
    user_features=(Hash("user_id", buckets=100),),
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory with nothing but a configuration."""
    root = tmp_path / "run"
    root.mkdir()
    RunPaths(root).config.write_text(configuration.to_json(SMALL))
    events = {"user_id": [f"u{n % 7}" for n in range(80)], "item_id": [f"i{n % 11}" for n in range(80)]}
    pq.write_table(pa.table(events), tmp_path / "events.parquet")
    (tmp_path / "small.py").write_text(CONFIG.format(root=str(tmp_path)))
    return root


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "--config={tmp}/small.py", "--run_dir={tmp}/run"],
        ["run", "--config={tmp}/small.py", "--run_dir={tmp}/run", "--export_dir={tmp}/export"],
        ["train", "--run_dir={tmp}/run"],
        ["evaluate", "--run_dir={tmp}/run"],
        ["export", "--run_dir={tmp}/run", "--export_dir={tmp}/export"],
        ["samples", "--run_dir={tmp}/run"],
        ["quickstart", "--run_dir={tmp}/run", "--export_dir={tmp}/export"],
        ["score", "--export_dir={tmp}/export", "--users_from_events={tmp}/run", "--output={tmp}/answers"],
        ["prepare", "--config={tmp}/small.py", "--run_dir={tmp}/next", "--since={tmp}/run"],
    ],
    ids=lambda command: command[0] + command[-1][:8],
)
def test_a_run_directory_in_use_is_refused_in_one_line(run_dir, tmp_path, capsys, command):
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with locks.hold_directory(run_dir):
        status = main([part.format(tmp=tmp_path) for part in command])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith(f"twotower {command[0]}: {run_dir}: in use by process ")
    assert lines[0].endswith("; wait until it has ended, or choose another directory")
    shutil.rmtree(tmp_path / "next", ignore_errors=True)  # of its own, which was free
    after = sorted(str(path) for path in tmp_path.rglob("*"))
    assert after == before


def test_the_samplers_may_be_looked_at_by_several(run_dir, capsys):
    """Readers share; what stops the second is that nothing is prepared here."""
    with locks.hold_directory(run_dir, shared=True):
        assert main(["samples", f"--run_dir={run_dir}"]) == 2
        assert "in use by" not in capsys.readouterr().err
        assert main(["train", f"--run_dir={run_dir}"]) == 2
        assert "in use by" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate", "samples"])
def test_a_mistyped_run_directory_is_not_made(tmp_path, capsys, command):
    assert main([command, f"--run_dir={tmp_path}/tpyo"]) == 2
    assert list(tmp_path.iterdir()) == []
    assert "no such file" in capsys.readouterr().err


def test_no_lock_is_left_in_a_directory_of_another_kind(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "small.py").write_text(CONFIG.format(root=str(tmp_path)))
    for command in (["prepare", f"--config={tmp_path}/small.py"], ["train"]):
        assert main([*command, f"--run_dir={tmp_path}"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.py", "thesis.tex"]
    capsys.readouterr()


def test_a_run_directory_may_have_characters_of_patterns_in_its_name(run_dir, tmp_path, capsys):
    for number, since in enumerate(("", f"--since={tmp_path}/lr=[0.1]*?{{a}}-0")):
        flags = [f"--config={tmp_path}/small.py", f"--run_dir={tmp_path}/lr=[0.1]*?{{a}}-{number}"]
        if since:
            events = {"user_id": ["u1", "u2", "u9"] * 20, "item_id": ["i1", "i20", "i3"] * 20}
            pq.write_table(pa.table(events), tmp_path / "more.parquet")
            flags += [since, "--set=data.events=*.parquet"]
        status = main(["prepare", *flags])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        assert (tmp_path / f"lr=[0.1]*?{{a}}-{number}" / "prepared" / "columns.json").is_file()
