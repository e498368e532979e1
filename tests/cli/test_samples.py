"""`samples` reports what the log and the model contain."""

import dataclasses
import re

import numpy as np
import pytest

from twotower_tf.artifacts import RunPaths
from twotower_tf.cli.main import main
from twotower_tf.config import InBatch, InBatchSoftmax, Queue, Rejections, SameAttribute, SamplingConfig, Uniform
from twotower_tf.features.arrays import EncodedData
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.report import samples_page
from twotower_tf.train import sampling_stats
from twotower_tf.train.batches import Batches
from twotower_tf.train.checkpoints import load_model
from twotower_tf.train.tower_vectors import item_vectors, user_vectors

pytestmark = pytest.mark.tensorflow

KINDS = (
    InBatch(),
    Uniform(per_positive=9, shared=True),
    SameAttribute(("category",), 2),
    Rejections(),
    Queue(size=300),
)


@pytest.fixture(scope="module")
def view(trained):
    run_dir, config = trained
    config = dataclasses.replace(config, sampling=SamplingConfig(KINDS), loss=InBatchSoftmax())
    prepared = Prepared.open(run_dir)
    encoded = EncodedData(config, prepared)
    batches = Batches(config, prepared, encoded)
    model = load_model(trained[1], run_dir)
    return sampling_stats.look(batches, encoded, model, rows=700), prepared, encoded, model


def test_every_draw_is_what_its_kind_promises(view):
    seen, prepared, encoded, _ = view
    assert list(seen.kinds) == ["positives", "SameAttribute", "Rejections", "InBatch", "Uniform", "Queue"]
    keys = encoded.keys("train")
    liked, shown = (
        set(zip(keys["user_row"][rows].tolist(), keys["item_row"][rows].tolist(), strict=True))
        for rows in (keys["label"] == 1, keys["label"] == 0)
    )
    category = prepared.items(["category"])["category"].to_pylist()
    for name, kind in seen.kinds.items():
        assert len(kind.items) and (np.diff(kind.places) >= 0).all()
        pairs = list(zip(seen.users[kind.places].tolist(), kind.items.tolist(), strict=True))
        if name == "positives":
            assert set(pairs) <= liked and len(pairs) == len(seen.own) == 512
            continue
        assert not set(pairs) & liked
        if name == "Rejections":
            assert set(pairs) <= shown
        if name == "SameAttribute":
            for place, item in zip(kind.places, kind.items, strict=True):
                assert category[item] == category[seen.own[place]]
    assert 0 < seen.masked_share < 1


def test_figures_are_of_these_draws(view):
    seen, prepared, encoded, model = view
    counts = prepared.train_count()
    figures = seen.figures()
    for name, kind in seen.kinds.items():
        assert figures[name]["draws"] == len(kind.items)
        assert figures[name]["cold_share"] == np.mean(counts[kind.items] == 0)
        assert figures[name]["popularity_50"] == np.median(counts[kind.items])
        np.testing.assert_allclose(figures[name]["cosine_mean"], kind.cosines.mean(), rtol=1e-6)
    rejections = seen.kinds["Rejections"]
    assert figures["Rejections"]["missing_share"] == 1 - len(rejections.items) / 512
    # One cosine by hand.
    place, item = rejections.places[0], rejections.items[0]
    row = np.flatnonzero(encoded.keys("train")["user_row"] == seen.users[place])
    vector = item_vectors(model, encoded)[item]
    products = user_vectors(model, encoded, "train", row) @ vector
    assert np.abs(products - rejections.cosines[0]).min() < 1e-5


def test_examples_and_histograms(view):
    seen, prepared, *_ = view
    shown = samples_page.collect_examples(seen, prepared)
    names = prepared.items(["item_id", "item_name"]).to_pylist()
    assert len(shown) == 6 and all(len(each["negatives"]["SameAttribute"]) <= 2 for each in shown)
    first = shown[0]
    assert first["user"] == prepared.user_ids()[seen.users[0]]
    assert first["positive"]["name"] == names[seen.own[0]]["item_name"]
    histograms = samples_page.compute_histograms(seen)
    assert histograms["popularity"]["edges"][:5] == [0, 1, 2, 4, 8]
    counts = prepared.train_count()[seen.kinds["Uniform"].items]
    by_hand = [np.mean(counts == 0), np.mean(counts == 1), np.mean((counts >= 2) & (counts <= 3))]
    np.testing.assert_allclose(histograms["popularity"]["shares"]["Uniform"][:3], by_hand, atol=1e-6)


def test_the_command_tells_and_writes_the_page(trained, capsys):
    run_dir, _ = trained
    assert main(["samples", f"--run_dir={run_dir}", "--set", "sampling.negatives=(InBatch(), Uniform(2))"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^positives +\d", out, re.M) and re.search(r"^Uniform +[\d,]+ +0\.000", out, re.M)
    assert "shared candidates masked as accidental hits (positives of the user): " in out
    page = RunPaths(run_dir).samples.read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and not re.search("(src|href)=.https?:|<script|@import", page)
    RunPaths(run_dir).samples.unlink()


def test_other_data_are_refused(trained, capsys):
    run_dir, _ = trained
    assert main(["samples", f"--run_dir={run_dir}", "--set", "data.label="]) == 2
    assert "was prepared with another configuration (data.label was" in capsys.readouterr().err
