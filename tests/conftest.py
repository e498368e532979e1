"""What tests of several packages share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# TensorBoard, within the test process, starts gRPC. Its fork handlers kill some processes started later from
# there: one in thirty, Spark's Java among them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


# What tests need is marked: by `pytestmark` in a module, or here by the directory or by the fixtures asked for. The
# lanes of the Makefile choose by these marks.
_TESTS = Path(__file__).parent
_DIRECTORIES = {
    "tensorflow": {
        "bundle",
        "golden",
        "contract",
        "end_to_end",
        "export",
        "features",
        "model",
        "score",
        "serve",
        "train",
    },  # fmt: skip
}
_FIXTURES = {"tensorflow": {"trained", "export_dir"}, "spark": {"spark", "spark_installed"}}
# Directories whose files take longest. Workers get files in this order: one that got a long file last would end alone.
_LONGEST_FIRST = ("end_to_end", "export", "score", "golden", "contract", "bundle", "train", "prepare", "cli")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out whole directories that the lane does not want: to import them takes TensorFlow's seconds."""
    unwanted = [mark for mark in _DIRECTORIES if f"not {mark}" in config.option.markexpr]
    inside = collection_path.parent == _TESTS
    return True if inside and any(collection_path.name in _DIRECTORIES[mark] for mark in unwanted) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their directory and their fixtures, and orders their files for several workers."""
    for item in items:
        for mark in ("tensorflow", "spark"):
            in_directory = not _DIRECTORIES.get(mark, set()).isdisjoint(item.path.relative_to(_TESTS).parts)
            if in_directory or not _FIXTURES[mark].isdisjoint(getattr(item, "fixturenames", ())):
                item.add_marker(mark)
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(_LONGEST_FIRST)}
        items.sort(key=lambda item: places.get(item.path.relative_to(_TESTS).parts[0], len(places)))


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """Finds a publisher's files by their name below the published data; skips where they are not there."""
    root = Path(os.environ.get("TWOTOWER_TEST_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"needs the published files in {root / name}; set TWOTOWER_TEST_DATA to their directory")
        return root / name

    return find


@pytest.fixture(scope="session", autouse=True)
def verification_in_this_process() -> Iterator[None]:
    """Verifies versions in the test process: a process for each would import TensorFlow some sixty times.

    tests/bundle/test_verify_staging.py, the commands' own processes and the killed exports start the real one.
    """
    from twotower_tf.bundle import verify_staging

    def verify(directory: Path) -> subprocess.CompletedProcess[str]:
        from twotower_tf.bundle.bundle import Bundle
        from twotower_tf.bundle.verify_bundle import run_checks
        from twotower_tf.errors import TwoTowerError

        try:
            run_checks(Bundle.read(directory))
        except TwoTowerError as error:
            return subprocess.CompletedProcess([], 2, "", f"twotower verify: {error}\n")
        return subprocess.CompletedProcess([], 0, "", "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_staging, "run_verify", verify)
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny trained run: its directory and configuration."""
    from tests.export.trained import train

    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def export_dir(trained, tmp_path_factory):
    """An export root with one version of the tiny run; never written to by tests."""
    from twotower_tf.export.export_bundle import export

    run_dir, config = trained
    root = tmp_path_factory.mktemp("exported") / "tiny"
    export(config, run_dir, root, version=7)
    return root


@pytest.fixture(scope="session")
def spark_installed() -> None:
    """Skips where Spark cannot be started."""
    for module in ("pyspark", "sqlglot"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'twotower-tf[spark]'")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("needs Java 17: apt-get install openjdk-17-jre-headless")


@pytest.fixture(scope="session")
def spark(spark_installed: None) -> Iterator[Any]:
    """A small Spark in this process, which the preparations share."""
    from twotower_tf.prepare.spark.spark_session import SparkOptions, start_session

    conf = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",  # little as there is, it is parted
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.log.level": "ERROR",
        # so little is run that compiling it takes longer
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    session = start_session(SparkOptions("local[2]", conf))
    yield SparkOptions()
    session.stop()


@pytest.fixture
def run_python():
    """Runs Python code in a fresh process and returns what it printed."""

    def run(code):
        environment = {**os.environ, "PYTHONPATH": str(_TESTS.parent), "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
