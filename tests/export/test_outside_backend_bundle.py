"""A bundle whose index is of a backend from outside the package: build, save, open, recommend, refresh."""

import dataclasses

import numpy as np
import pytest

from tests.index.test_outside_backend import BruteForceSearcher, brute  # noqa: F401  (the fixture registers it)
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.bundle.verify_bundle import verify
from twotower_tf.config import IndexConfig
from twotower_tf.export.export_bundle import export
from twotower_tf.export.refresh_bundle import refresh
from twotower_tf.retrieval.recommender import Recommender

USERS = [{"user_id": "u000137", "country": "US"}, {"user_id": "u000002"}]


@pytest.fixture(scope="module")
def root(trained, brute, tmp_path_factory):  # noqa: F811
    run_dir, config = trained
    root = tmp_path_factory.mktemp("brute") / "tiny"
    export(dataclasses.replace(config, index=IndexConfig(kind="brute")), run_dir, root, version=7)
    return root


def test_it_recommends_what_the_exact_backend_recommends(root, export_dir):
    bundle = Bundle.open(root)
    assert bundle.manifest["index"]["kind"] == "brute" and isinstance(bundle.searcher(), BruteForceSearcher)
    assert "index: exact" in verify(root)
    answers = [Recommender(place).recommend(USERS, 10) for place in (root, export_dir)]
    for mine, theirs in zip(*answers, strict=True):
        assert mine["item_ids"] == theirs["item_ids"]
        np.testing.assert_allclose(mine["scores"], theirs["scores"], atol=1e-6)


def test_it_is_refreshed(root, tmp_path):
    (tmp_path / "gone.txt").write_text("i00003\n")
    assert refresh(root, delete=tmp_path / "gone.txt", version=8).index == "updated"
    assert "i00003" not in Bundle.open(root).searcher().items.ids.tolist()
