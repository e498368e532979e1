"""What tests of the service share."""

import numpy as np
import pytest

from tests.serve.running import running, unpack


@pytest.fixture(scope="session")
def served_root(tmp_path_factory):
    """An export root with version 7; never written to by tests."""
    return unpack("exact", tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def tiny(served_root):
    """A service over that root; its model is `tiny`."""
    with running(served_root) as found:
        yield found


@pytest.fixture(scope="session")
def saved_model(served_root):
    """The bundle in plain TensorFlow: what the service's answers are compared with."""
    import tensorflow as tf

    return tf.saved_model.load(str(served_root / "7"))


@pytest.fixture(scope="session")
def items(served_root):
    """Ids and vectors of the items, as the TSV has them."""
    lines = [line.split("\t") for line in (served_root / "7" / "item_embeddings.tsv").read_text().splitlines()]
    return [line[0] for line in lines], np.array([line[1].split(",") for line in lines], np.float64)
