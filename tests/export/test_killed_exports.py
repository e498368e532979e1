"""Kill -9 of exports and refreshes: what is there loads and is right, and the next run cleans up and succeeds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def prepared(trained, export_dir, place):
    """An export root with version 7, and a table with a new item."""
    shutil.copytree(export_dir, place / "tiny")
    lines = (Path(trained[1].data.root) / "items.csv").read_text().splitlines()
    (place / "items.csv").write_text("\n".join([lines[0], lines[1].replace("i00000", "brandnew")]) + "\n")
    return place / "tiny"


def killed(trained, root, kind, *moments):
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "TF_NUM_INTRAOP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), kind, str(trained[0]), str(root), *map(str, moments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return lines[:-1], lines[-1]["imported"]


def assert_safe(attempt):
    """Every version there passes verify; then the next run succeeds, leaves nothing behind, and all pass again."""
    assert set(attempt["versions"].values()) <= {""}, attempt
    assert attempt["again"] == 0 and attempt["clean"], attempt
    assert set(attempt["after"].values()) == {""} and len(attempt["after"]) >= 2, attempt


MOMENTS = {  # number of versions there afterwards, whether something unfinished is
    "writing vectors": (1, True),
    "syncing": (1, True),
    "after the rename": (2, False),
    "removing old versions": (1, True),
    "before the rename": (1, True),
}


@pytest.mark.quality
def test_a_killed_refresh_leaves_whole_versions_only(trained, export_dir, tmp_path):
    attempts, imported = killed(trained, prepared(trained, export_dir, tmp_path), "refresh", *MOMENTS)
    assert imported == []  # a refresh needs neither the model's code nor Keras
    assert [attempt["moment"] for attempt in attempts] == list(MOMENTS)
    for attempt in attempts:
        versions, unfinished = MOMENTS[attempt["moment"]]
        assert attempt["status"] == -9, attempt
        assert len(attempt["versions"]) == versions and set(attempt["versions"].values()) == {""}, attempt
        assert len(attempt["left"]) == unfinished and all(name.startswith(".tmp-") for name in attempt["left"])
        # The new version is not there before its rename, the old one not after its removal has begun.
        assert ("7" in attempt["versions"]) == (attempt["moment"] != "removing old versions")
    assert_safe(attempts[-1])


@pytest.mark.quality
@pytest.mark.parametrize("kind", ["export", "refresh"])
def test_fifty_random_moments(trained, export_dir, tmp_path, kind):
    attempts, _ = killed(trained, prepared(trained, export_dir, tmp_path), kind, "random", 50, 17)
    assert len(attempts) == 50
    for attempt in attempts:
        assert attempt["status"] in (0, -9)
        assert_safe(attempt)
    stages = {(len(attempt["versions"]), bool(attempt["left"])) for attempt in attempts}
    assert (1, True) in stages  # some were killed in the middle
