"""What tests of several packages share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# TensorBoard, within the test process, starts gRPC. Its fork handlers kill some processes started later from
# there: one in thirty, Spark's Java among them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """Finds a publisher's files by their name below the published data; skips where they are not there."""
    root = Path(os.environ.get("TWOTOWER_TEST_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")

    def find(name: str) -> Path:
        if not (root / name).exists():
            pytest.skip(f"needs the published files in {root / name}; set TWOTOWER_TEST_DATA to their directory")
        return root / name

    return find


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny trained run: its directory and configuration."""
    from tests.export.trained import train

    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def export_dir(trained, tmp_path_factory):
    """An export root with one version of the tiny run; never written to by tests."""
    from twotower_tf.export.export import export

    run_dir, config = trained
    root = tmp_path_factory.mktemp("exported") / "tiny"
    export(config, run_dir, root, version=7)
    return root
