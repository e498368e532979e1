"""The shipped configurations on published data, through the commands that they open with.

The fast lane runs the small sets for an epoch or two; `make quality` runs all of them in full and checks the figures.
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import command
from tests.end_to_end.quality_record import record_run

ROOT = Path(__file__).resolve().parents[2]
# configuration: name for `dataset`, its files below the published data
SETS = {
    "movielens_100k": ("movielens-100k", "movielens-100k"),
    "movielens_1m": ("movielens-1m", "movielens-1m"),
    "gowalla": ("gowalla", "gowalla"),
    "movielens_1m_m1": ("movielens-1m-m1", "movielens-1m-m1"),
    "movielens_kept": ("movielens-100k", "movielens-100k"),
    "avazu": ("avazu", "avazu-sample/avazu_random20k.csv"),
}


Run = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def run(published: Callable[[str], Path], tmp_path: Path) -> Run:
    """Converts a set below the test's directory and runs its configuration."""
    return functools.partial(convert_and_run, published, tmp_path)


def convert_and_run(
    published: Callable[[str], Path], root: Path, name: str, *overrides: str, final: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns prepared/manifest.json and metrics.json."""
    dataset, files = SETS[name]
    done = command("dataset", dataset, f"--source={published(files)}", f"--output={root}/data")
    assert done.status == 0, done.err
    settings = [f"--set={override}" for override in (f"data.root={root}/data", *overrides)]
    where = [f"--run_dir={root}/run", f"--export_dir={root}/export/{name}"]
    started = time.monotonic()
    done = command("run", f"--config={ROOT}/configs/{name}.py", *where, *settings, *["--final"] * final)
    assert done.status == 0, done.err
    seconds = time.monotonic() - started
    print(done.out)
    run_dir = root / "run"
    manifest, metrics = (
        json.loads((run_dir / file).read_text()) for file in ("prepared/manifest.json", "metrics.json")
    )
    if not overrides:
        record_run(name, run_dir, metrics, seconds, final=final)
    return manifest, metrics


def test_movielens_100k_beats_popularity_after_two_epochs(tmp_path: Path, run: Run) -> None:
    manifest, report = run("movielens_100k", "train.epochs=2")
    assert manifest["rows"]["read"] == 100_000 == manifest["rows"]["used"]
    assert (manifest["items"], manifest["users"]) == (1682, 943)
    assert report["metrics"]["recall@20"] > report["baselines"]["popularity"]["recall@20"]
    user = '--user={"user_id": "1", "gender": "M", "age": 24, "occupation": "technician", "history": ["50", "181"]}'
    answer = json.loads(command("recommend", f"--export_dir={tmp_path}/export/movielens_100k", user).out)
    assert len(set(answer["item_ids"])) == 10


def test_the_avazu_sample_runs(tmp_path: Path, run: Run) -> None:
    manifest, report = run("avazu", "train.epochs=1")
    assert manifest["rows"]["read"] == 20_000 == manifest["rows"]["used"]
    assert report["split"] == "test" and report["users"] > 0
    user = '--user={"device_id": "a99f214a", "device_ip": "ddd2926e", "device_type": 1, "device_conn_type": "2"}'
    answer = json.loads(command("recommend", f"--export_dir={tmp_path}/export/avazu", user, "--k=3").out)
    assert len(answer["item_ids"]) == 3


# Published next-item figures that a configuration reaches: SASRec with sampled softmax, less half of the 95 % interval.
REACHED = {"movielens_1m": {"recall@10": 0.2929 - 0.0115, "ndcg@10": 0.1684 - 0.0075}}


@pytest.mark.quality
@pytest.mark.parametrize("name", ["movielens_100k", "movielens_1m"])
def test_beats_popularity_clearly(name: str, run: Run) -> None:
    _, report = run(name)
    assert report["metrics"]["recall@20"] >= 1.5 * report["baselines"]["popularity"]["recall@20"]
    for metric, least in REACHED.get(name, {}).items():
        assert report["metrics"][metric] >= least


# On the test part, by the final fit: what docs/benchmarks.md reports. .005 are left to another machine.
REPORTED = {
    "gowalla": {"recall@20": 0.1820, "ndcg@20": 0.1498},
    "movielens_1m_m1": {"recall@20": 0.2900, "ndcg@20": 0.3081},
    "movielens_kept": {"recall@100": 0.3804},
}


@pytest.mark.quality
@pytest.mark.parametrize("name", REPORTED)
def test_ranks_as_well_as_reported(name: str, run: Run) -> None:
    _, report = run(name, final=True)
    for metric, value in REPORTED[name].items():
        assert report["metrics"][metric] >= value - 0.005
