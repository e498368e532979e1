"""What tests of several packages share."""

import pytest


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
