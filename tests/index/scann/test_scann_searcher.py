import dataclasses
import json
import os
import sys

import numpy as np
import pytest

from tests.index.contract import SearcherContract, unit
from twotower_tf.config import IndexConfig
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.index.backends import build_index, load_index
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.index.scann import scann_build
from twotower_tf.index.scann.scann_searcher import ScannSearcher

pytest.importorskip("scann", reason="ScaNN is not installed here")


def clustered(rng, count, dim, clusters=40):
    centres = np.random.default_rng(0).standard_normal((clusters, dim))
    vectors = centres[rng.integers(0, clusters, count)] + 0.7 * rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class TestScannSearcher(SearcherContract):
    config = IndexConfig(kind="scann", k=10, target_recall=0.99)
    exactness = 0.98

    @classmethod
    def build(cls, ids, vectors, queries=None):
        """Catalogues below ScaNN's smallest are filled up with items that no query is near to."""
        missing = 16 - len(ids)
        if 0 < len(ids) == len(vectors) and missing > 0:
            ids = [*ids, *(f"filler {n}" for n in range(missing))]
            vectors = np.concatenate([vectors, np.tile(-vectors[:1], (missing, 1))])
        return super().build(ids, vectors, queries)

    @pytest.mark.parametrize("target", [0.5, 0.9, 0.99, 1.0])
    def test_reaches_the_recall_asked_for_on_queries_it_has_not_seen(self, target):
        rng = np.random.default_rng(8)
        vectors, sample, fresh = clustered(rng, 6000, 16), clustered(rng, 300, 16), clustered(rng, 300, 16)
        ids = [str(row) for row in range(6000)]
        searcher = build_index(ids, vectors, IndexConfig(kind="scann", k=20, target_recall=target), sample, threads=2)
        exact = ExactSearcher(ItemVectors(ids, vectors))

        def recall(queries):
            pairs = zip(searcher.search(queries, 20).rows, exact.search(queries, 20).rows, strict=True)
            return np.mean([len(set(found) & set(best)) / 20 for found, best in pairs])

        assert recall(fresh) >= target - (0.15 if target < 0.9 else 0.03)  # one leaf more or less is much at 0.5
        stated = searcher.description()["recall"]
        assert (stated["target"], stated["k"], stated["queries"]) == (target, 20, 300)
        assert stated["measured"] >= target
        assert stated["measured"] == pytest.approx(recall(sample), abs=1e-3)
        assert {"leaves_to_search", "reorder", "recall", "microseconds"} == set(stated["curve"][0])

    def test_few_leaves_never_leave_an_answer_short(self):
        """One leaf of about 20 items is searched for 100 answers: ScaNN alone would pad them with item 0."""
        rng = np.random.default_rng(9)
        vectors = clustered(rng, 500, 8)
        built = build_index([str(n) for n in range(500)], vectors, IndexConfig(kind="scann", k=1, target_recall=0.01))
        # Which of the settings that reach so little is the fastest is the machine's mood; the fewest leaves are wanted.
        parameters = dataclasses.replace(built.parameters, k=500, leaves_to_search=1, reorder=500, wider=())
        built = ScannSearcher(built.items, built._native, parameters, built.recall)
        queries = clustered(rng, 20, 8)
        for k in (100, 500):
            raw_rows, raw_scores = scann_build.search_batch(built._native, queries, k, 1, 500, threads=1)
            padded = np.isneginf(raw_scores)
            assert padded.any(axis=1).all() and (raw_rows[padded] == 0).all()  # so each answer is completed
            found, best = built.search(queries, k), np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
            assert all(set(rows.tolist()) == set(right.tolist()) for rows, right in zip(found.rows, best, strict=True))
            np.testing.assert_allclose(found.scores, np.take_along_axis(queries @ vectors.T, best, 1), atol=1e-6)

    def test_loads_in_a_fresh_process(self, data, searcher, tmp_path, run_python):
        _, _, queries = data
        searcher.save(tmp_path / "index")
        np.save(tmp_path / "queries.npy", queries)
        output = run_python(
            "import json, numpy as np; from twotower_tf.index.backends import load_index;"
            f"found = load_index({str(tmp_path / 'index')!r}).search(np.load({str(tmp_path / 'queries.npy')!r}), 15);"
            "print(json.dumps(found.rows.tolist()))"
        )
        assert json.loads(output.splitlines()[-1]) == searcher.search(queries, 15).rows.tolist()

    def test_keeps_no_pickle(self, searcher, tmp_path):
        searcher.save(tmp_path / "index")
        names = {path.name for path in (tmp_path / "index").rglob("*")}
        assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
        assert str(tmp_path) not in (tmp_path / "index/scann/scann_assets.pbtxt").read_text()


@pytest.mark.parametrize(("level", "silent"), [("3", True), ("0", False)])
def test_training_is_silent_where_silence_is_asked_for(monkeypatch, capfd, level, silent):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    vectors = unit(np.random.default_rng(1), 200, 4)
    scann_build.build(vectors, 5, scann_build.Shape(10, 0.2, 1), threads=1)
    os.write(2, b"still heard\n")
    error = capfd.readouterr().err
    assert ("PartitionerFactory" not in error) == silent
    assert error.endswith("still heard\n")


def test_auto_is_exact_for_small_catalogues_and_scann_for_large_ones():
    vectors = unit(np.random.default_rng(1), 40, 4)
    ids = [str(n) for n in range(40)]
    assert build_index(ids, vectors, IndexConfig(exact_below=40)).kind == "exact"
    assert build_index(ids, vectors, IndexConfig(exact_below=39)).kind == "scann"
    assert build_index(ids[:10], vectors[:10], IndexConfig(exact_below=0)).kind == "exact"  # too few to train ScaNN


def test_scann_by_name_needs_enough_items():
    with pytest.raises(
        ConfigError, match=r"scann needs at least 16 items to train its quantizer; the catalogue has 3;"
    ):
        build_index(["a", "b", "c"], np.float32([[1, 0]] * 3), IndexConfig(kind="scann"))


def test_without_scann(monkeypatch, tmp_path):
    vectors = unit(np.random.default_rng(1), 40, 4)
    ids = [str(n) for n in range(40)]
    built = build_index(ids, vectors, IndexConfig(kind="scann", k=5))
    assert isinstance(built, ScannSearcher)
    built.save(tmp_path / "index")
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(ConfigError, match=r"scann cannot be imported .* or use kind='exact'"):
        build_index(ids, vectors, IndexConfig(kind="scann"))
    with pytest.raises(ArtifactError, match="an index of kind scann needs the package scann, which cannot be imported"):
        load_index(tmp_path / "index")
