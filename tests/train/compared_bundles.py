"""Bundles of two runs that should have the same model."""

import json

import numpy as np

from twotower_tf import config as configuration
from twotower_tf.bundle.verify_bundle import verify
from twotower_tf.pipeline import Pipeline


def assert_same_answers(run_dir, other, directory):
    """Exports and verifies both; for the same users they recommend almost the same items, with the same scores."""
    found = []
    for name, each in (("one", run_dir), ("other", other)):
        pipeline = Pipeline(configuration.load_run(each), each, directory / name)
        pipeline.evaluate("test")
        version = pipeline.export().path
        assert any("canaries" in line for line in verify(directory / name))
        found.append(json.loads((version / "manifest.json").read_text())["canaries"])
    assert len(found[0]) == len(found[1]) == 8
    for got, expected in zip(*found, strict=True):
        assert got["user"] == expected["user"]
        np.testing.assert_allclose(got["scores"], expected["scores"], atol=0.01)
        assert len(set(got["item_ids"]) & set(expected["item_ids"])) >= 9
