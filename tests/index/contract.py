"""What every index promises, tested once and inherited by the tests of each implementation."""

import json
import shutil

import numpy as np
import pytest

from twotower_tf.errors import ArtifactError, DataError
from twotower_tf.index.backends import build_index, load_index


def unit(rng, count, dim):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def oracle(queries, vectors, k):
    """Sorts all items for every query by cosine in double precision, equal ones by row. Plain and slow."""
    rows, scores = [], []
    for query in queries.astype(np.float64):
        cosines = np.float32(
            [sum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors.astype(np.float64)]
        )
        best = sorted(range(len(vectors)), key=lambda row: (-cosines[row], row))[:k]
        rows.append(best)
        scores.append(cosines[best])
    return np.array(rows), np.array(scores)


class SearcherContract:
    """Subclasses give `config` (an IndexConfig) and `exactness`: the lowest recall against the oracle."""

    config = None
    exactness = 1.0

    @classmethod
    def build(cls, ids, vectors, queries=None):
        return build_index(ids, vectors, cls.config, queries, threads=2)

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls):
        rng = np.random.default_rng(11)
        vectors, queries = unit(rng, 400, 8), unit(rng, 70, 8)
        return [f"item {row}" for row in range(400)], vectors, queries

    @pytest.fixture(scope="class")
    @classmethod
    def searcher(cls, data):
        return cls.build(*data)

    def test_finds_what_a_full_sort_finds(self, data, searcher):
        _, vectors, queries = data
        rows, scores = oracle(queries, vectors, 10)
        found = searcher.search(queries, 10)
        recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.rows, rows, strict=True)])
        assert recall >= self.exactness
        if self.exactness == 1.0:
            np.testing.assert_array_equal(found.rows, rows)
            np.testing.assert_allclose(found.scores, scores, atol=1e-7)

    @pytest.mark.parametrize("k", [1, 7, 399, 400, 1000])
    @pytest.mark.parametrize("count", [0, 1, 3, 70])
    def test_answers_k_distinct_items_with_their_own_ids_and_scores(self, data, searcher, k, count):
        ids, vectors, queries = data
        found = searcher.search(queries[:count], k)
        assert found.rows.shape == found.item_ids.shape == found.scores.shape == (count, min(k, 400))
        assert found.rows.dtype == np.int32 and found.scores.dtype == np.float32
        for query, rows, names, scores in zip(queries[:count], found.rows, found.item_ids, found.scores, strict=True):
            assert len(set(rows.tolist())) == len(rows)
            assert [ids[row] for row in rows] == names.tolist()
            np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-6)
            assert (np.diff(scores) <= 0).all()

    def test_every_item_finds_itself_first(self, data, searcher):
        _, vectors, _ = data
        found = searcher.search(vectors, 1)
        assert (found.rows[:, 0] == np.arange(400)).mean() >= self.exactness
        assert found.scores.max() == pytest.approx(1.0, abs=1e-6)

    def test_equal_vectors_come_in_row_order(self):
        rng = np.random.default_rng(3)
        vectors = unit(rng, 64, 4)
        vectors[[5, 17, 40]] = vectors[30]
        found = self.build([str(row) for row in range(64)], vectors, vectors).search(vectors[30:31], 4)
        assert found.rows.tolist() == [[5, 17, 30, 40]]

    def test_a_saved_index_answers_the_same_wherever_it_is_moved(self, data, searcher, tmp_path):
        ids, vectors, queries = data
        before = searcher.search(queries, 20)
        searcher.save(tmp_path / "index")
        shutil.copytree(tmp_path / "index", tmp_path / "copy")
        shutil.move(tmp_path / "index", tmp_path / "far" / "away")
        other = self.build(ids, vectors[::-1], queries)
        other.save(tmp_path / "index")  # another index where the first was written
        for place in ("far/away", "copy"):
            moved = load_index(tmp_path / place)
            after = moved.search(queries, 20)
            np.testing.assert_array_equal(after.rows, before.rows)
            np.testing.assert_array_equal(after.scores, before.scores)
            assert after.item_ids.tolist() == before.item_ids.tolist()
            assert moved.description() == searcher.description()

    def test_a_loaded_index_outlives_its_directory(self, data, searcher, tmp_path):
        _, _, queries = data
        searcher.save(tmp_path / "index")
        loaded = load_index(tmp_path / "index")
        shutil.rmtree(tmp_path / "index")
        np.testing.assert_array_equal(loaded.search(queries, 400).rows, searcher.search(queries, 400).rows)

    def test_odd_ids_survive(self, tmp_path):
        ids = ["ü", "日本", "a b", " ", '"', "\\n", "\u2028", "\x1c", "\x85", "-1"] + [f"{n}" for n in range(20)]
        vectors = unit(np.random.default_rng(4), len(ids), 5)
        self.build(ids, vectors).save(tmp_path / "index")
        loaded = load_index(tmp_path / "index")
        assert loaded.items.ids.tolist() == ids
        assert loaded.items.row("日本") == 1 and loaded.items.row("nobody") is None
        np.testing.assert_array_equal(np.asarray(loaded.items.vectors), vectors)

    def test_every_changed_or_missing_file_is_named(self, searcher, tmp_path):
        searcher.save(tmp_path / "index")
        stated = json.loads((tmp_path / "index/index.json").read_text())["files"]
        assert "item_ids" in stated
        for name in stated:
            path = tmp_path / "index" / name
            content = bytearray(path.read_bytes())
            flipped = content.copy()
            flipped[len(flipped) // 2] ^= 1
            path.write_bytes(flipped)
            with pytest.raises(ArtifactError, match=f"{name}: damaged: its sha256 is .*, index.json states .*"):
                load_index(tmp_path / "index")
            path.unlink()
            with pytest.raises(ArtifactError, match=f"{name}: missing; index.json lists it"):
                load_index(tmp_path / "index")
            path.write_bytes(content)
        load_index(tmp_path / "index")

    def test_another_schema_version_is_refused(self, searcher, tmp_path):
        searcher.save(tmp_path / "index")
        document = json.loads((tmp_path / "index/index.json").read_text())
        (tmp_path / "index/index.json").write_text(json.dumps({**document, "schema_version": 7}))
        with pytest.raises(ArtifactError, match="invalid schema_version 7 .expected 3, "):
            load_index(tmp_path / "index")

    def test_a_fingerprint_of_other_vectors_is_refused(self, searcher, tmp_path):
        searcher.save(tmp_path / "index")
        document = json.loads((tmp_path / "index/index.json").read_text())
        (tmp_path / "index/index.json").write_text(json.dumps({**document, "fingerprint": "f" * 64}))
        with pytest.raises(ArtifactError, match=r"ids and vectors have fingerprint .*, index.json states ffffffffffff"):
            load_index(tmp_path / "index")

    def test_queries_that_cannot_be_answered_are_refused(self, searcher):
        with pytest.raises(
            DataError,
            match=r"invalid shape \(1, 9\) \(expected \[queries, 8\], the index\'s dimensions\); the user tower and",
        ):
            searcher.search(np.ones((1, 9), np.float32), 3)
        with pytest.raises(DataError, match=r"queries: invalid shape \(8,\) \(expected \[queries, 8\]"):
            searcher.search(np.ones(8, np.float32), 3)
        with pytest.raises(DataError, match="queries: invalid vector of query 1 .expected finite numbers"):
            searcher.search(np.array([[0] * 8, [np.nan] * 8], np.float32), 3)
        with pytest.raises(DataError, match="k: invalid value 0 .expected at least 1"):
            searcher.search(np.ones((1, 8), np.float32), 0)

    @pytest.mark.parametrize(
        ("row", "vector", "message"),
        [
            (3, [np.nan, 0], r"1 item\(s\) have a vector with NaN or infinity: 'i3'; the model diverged"),
            (4, [np.inf, 0], r"1 item\(s\) have a vector with NaN or infinity: 'i4'"),
            (5, [0, 0], r"1 item\(s\) have a vector of length zero: 'i5'; it has no direction"),
            (6, [1.002, 0], r"1 item\(s\) have a vector that is not of unit length \(the first 1\.002\): 'i6'"),
        ],
    )
    def test_vectors_that_break_an_index_are_refused_by_item_id(self, row, vector, message):
        vectors = np.tile(np.float32([0.6, 0.8]), (32, 1))
        vectors[row] = vector
        with pytest.raises(DataError, match=message):
            self.build([f"i{n}" for n in range(32)], vectors)

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (["a", "b", "a"], r"1 item\(s\) are there twice: 'a'; expected one vector per item"),
            (["a", "b\tc", "d"], r"1 item\(s\) hold a tab, line break or NUL: 'b\\tc'"),
            (["a\n", "b", "d"], r"1 item\(s\) hold a tab, line break or NUL: 'a\\n'"),
            (["a", "", "d"], r"1 item\(s\) are empty: ''; every item needs an id"),
            (["a", 3, "d"], r"1 item\(s\) are not text: 3; item ids are text everywhere"),
            (["a", "\ud800", "d"], r"1 item\(s\) are not valid Unicode: '\\ud800'"),
            (["a", "b"], "invalid number of ids 2 .expected 3"),
        ],
    )
    def test_ids_that_break_a_file_are_refused(self, ids, message):
        with pytest.raises(DataError, match=message):
            self.build(ids, np.tile(np.float32([0.6, 0.8]), (3, 1)))

    def test_an_empty_catalogue_is_refused(self):
        with pytest.raises(DataError, match="invalid empty table .expected at least one item"):
            self.build([], np.empty((0, 4), np.float32))
