"""Bundles that earlier code published open, verify, answer and refresh; run directories are refused with the remedy."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.cli.main import main
from twotower_tf.retrieval.recommender import Recommender

GOLDEN = Path(__file__).parent
ANSWERS = json.loads((GOLDEN / "answers.json").read_text())


@pytest.fixture(params=["exact", "scann"])
def earlier(request, tmp_path):
    """The export root of a kind of index, and the answers its own code gave."""
    with tarfile.open(GOLDEN / f"bundle_2_{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / request.param, ANSWERS[request.param]


def answered(root, users, version=None):
    bundle = Bundle.open(root) if version is None else Bundle.open(root, version)
    return Recommender(bundle).recommend(users, k=5)


def test_a_bundle_of_schema_2_answers_as_its_own_code_did(earlier):
    root, expected = earlier
    found = answered(root, [answer["user"] for answer in expected])
    for one, other in zip(found, expected, strict=True):
        assert one["item_ids"] == other["item_ids"]
        np.testing.assert_allclose(one["scores"], other["scores"], atol=2e-6)


def test_a_bundle_of_schema_2_is_verified(earlier):
    root, _ = earlier
    assert main(["verify", f"--export_dir={root}"]) == 0


def test_a_bundle_of_schema_2_is_refreshed(earlier, tmp_path):
    root, expected = earlier
    catalogue = pq.read_table(root / "7" / "items.parquet").to_pylist()
    copied = {**catalogue[3], "item_id": "new item"}
    names = ("item_id", "category", "price", "title")
    header, row = ",".join(names), ",".join(str(copied.get(name, "")) for name in names)
    (tmp_path / "items.csv").write_text(f"{header}\n{row}\n")
    assert main(["refresh", f"--export_dir={root}", f"--items={tmp_path / 'items.csv'}"]) == 0
    newest = Bundle.open(root)
    assert newest.manifest["version"] != 7 and newest.manifest["items"] == 151
    found = answered(root, [answer["user"] for answer in expected])
    kept = [[item for item in one["item_ids"] if item != "new item"] for one in found]
    assert [items[:4] for items in kept] == [other["item_ids"][:4] for other in expected]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_run_directory_of_an_earlier_format_is_refused_in_one_line(command, tmp_path, capsys):
    with tarfile.open(GOLDEN / "run_4.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    run = shutil.move(tmp_path / "run_small", tmp_path / "run")
    assert main([command, f"--run_dir={run}", *(["--resume"] if command == "train" else [])]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "twotower prepare" in message
