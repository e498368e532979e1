"""What tests of several packages share."""

import os

import pytest

# TensorBoard, within the test process, starts gRPC. Its fork handlers kill some processes started later from
# there: one in thirty, Spark's Java among them.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


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
