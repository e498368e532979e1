"""A prepared value that is not TensorFlow's is found before a training reads it."""

import re
import shutil

import numpy as np
import pytest

from twotower_tf.errors import ArtifactError
from twotower_tf.features.encoding_check import check_encodings
from twotower_tf.pipeline import Pipeline
from twotower_tf.prepare.prepared import Prepared


@pytest.fixture
def prepared(trained, tmp_path):
    run_dir, config = trained
    shutil.copytree(run_dir / "prepared", tmp_path / "prepared")
    shutil.copy(run_dir / "config.json", tmp_path)
    return Prepared.open(tmp_path), config


def arrays(prepared):
    encoded = prepared.paths.encoded_items.parent
    return [*sorted((encoded / "items").glob("*.npy")), *sorted((encoded / "train").glob("*.npy"))]


def test_every_array_is_compared(prepared):
    prepared, config = prepared
    check_encodings(config, prepared)
    found = arrays(prepared)
    assert len(found) >= 4
    for path in found:
        kept = np.load(path)
        for column in range(kept.shape[1] if path.stem.endswith(("ids", "numeric")) else 1):
            changed = kept.copy()
            changed[7, column] += 1
            np.save(path, changed)
            with pytest.raises(ArtifactError, match=r"prepared/encoded: feature \w+: invalid encoding"):
                check_encodings(config, prepared)
        np.save(path, kept)
    check_encodings(config, prepared)


def test_a_training_begins_with_it(prepared, tmp_path):
    prepared, config = prepared
    path = prepared.paths.encoded_items.parent / "items" / "ids.npy"
    ids = np.load(path)
    ids[0, 0] += 1
    np.save(path, ids)
    pipeline = Pipeline(config, tmp_path, tmp_path / "export")
    with pytest.raises(ArtifactError, match=re.escape(f"invalid encoding [{ids[0, 0]}]")):
        pipeline.train(force=True)
    assert not (tmp_path / "train.json").exists()
