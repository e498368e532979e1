"""What tests of the service share."""

import shutil
import subprocess

import numpy as np
import pytest

from tests.serve.running import ROW, running, unpack


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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Paths of a certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    place = tmp_path_factory.mktemp("tls")
    cert, key = place / "cert.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory):
    """An export root with versions 7 and 8; 8 lacks every second item of what 7 answers `ROW` with.

    Also the 20 items that each answers `ROW` with: an answer shows whose index it is from.
    """
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.export import refresh_bundle
    from twotower_tf.retrieval.recommender import Recommender

    place = tmp_path_factory.mktemp("two")
    root = unpack("exact", place)
    best = Recommender(root).recommend(ROW, 20)["item_ids"]
    (place / "gone.txt").write_text("\n".join(best[::2]))
    refresh_bundle.refresh(root, None, delete=place / "gone.txt", version=8)
    return root, {7: best, 8: Recommender(Bundle.open(root, 8)).recommend(ROW, 20)["item_ids"]}
