import numpy as np
import pytest

from tests.index.contract import SearcherContract, unit
from twotower_tf.config import IndexConfig
from twotower_tf.index import exact
from twotower_tf.index.eligible import Ineligible
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors


class TestExactSearcher(SearcherContract):
    config = IndexConfig(kind="exact")

    def test_by_hand(self):
        """Three directions in the plane; cosines of (0.6, 0.8) with them are 0.6, 0.8 and 0.96 + ..."""
        searcher = self.build(["east", "north", "between"], np.float32([[1, 0], [0, 1], [0.8, 0.6]]))
        found = searcher.search(np.float32([[0.6, 0.8]]), 2)
        assert found.item_ids.tolist() == [["between", "north"]]  # 0.6*0.8 + 0.8*0.6 = 0.96, then 0.8
        np.testing.assert_allclose(found.scores, [[0.96, 0.8]], atol=1e-7)

    def test_one_item(self):
        found = self.build(["only"], np.float32([[1, 0]])).search(np.float32([[-1, 0]]), 5)
        assert found.item_ids.tolist() == [["only"]] and found.scores.tolist() == [[-1.0]]

    def test_an_answer_does_not_depend_on_its_batch_or_the_threads(self, monkeypatch):
        rng = np.random.default_rng(5)
        items = ItemVectors([str(n) for n in range(3000)], unit(rng, 3000, 32))
        queries = unit(rng, 50, 32)
        whole = ExactSearcher(items, threads=1).search(queries, 30)
        monkeypatch.setattr(exact, "_BLOCK_BYTES", 4 * 3000 * 7)  # seven queries a block
        blocks = ExactSearcher(items, threads=3).search(queries, 30)
        single = [ExactSearcher(items).search(queries[n : n + 1], 30) for n in range(50)]
        np.testing.assert_array_equal(blocks.rows, whole.rows)
        np.testing.assert_array_equal(blocks.scores, whole.scores)
        np.testing.assert_array_equal(np.concatenate([found.rows for found in single]), whole.rows)
        np.testing.assert_array_equal(np.concatenate([found.scores for found in single]), whole.scores)

    @pytest.mark.parametrize("count", [40, 255, 257, 401, 1700])
    @pytest.mark.parametrize("k", [1, 10, 100])
    def test_small_and_large_catalogues_equal_a_full_sort(self, count, k):
        """Few items are scored one way, many another; a third of the pairs is excluded, two users get nothing."""
        rng = np.random.default_rng(count + k)
        vectors, queries = unit(rng, count, 24), unit(rng, 150, 24)
        vectors[count // 2 :: 7] = vectors[1]
        searcher = ExactSearcher(ItemVectors([str(n) for n in range(count)], vectors), threads=1)
        gone = rng.random((150, count)) < 0.3
        gone[[3, 149]] = True
        gone[7, 5:] = True
        scores = np.float32(queries.astype(np.float64) @ vectors.astype(np.float64).T)
        for mask in (np.zeros_like(gone), gone):
            found = searcher.scan(queries, k, Ineligible(*np.nonzero(mask), 150))
            for query, (start, stop) in enumerate(zip(found.offsets[:-1], found.offsets[1:], strict=True)):
                left = np.flatnonzero(~mask[query])
                wanted = left[np.lexsort((left, -scores[query, left]))][:k]
                assert found.rows[start:stop].tolist() == wanted.tolist()
                np.testing.assert_array_equal(found.scores[start:stop], scores[query, wanted])
        plain = searcher.search(queries, k)
        np.testing.assert_array_equal(plain.rows, np.argsort(-scores, axis=1, kind="stable")[:, :k])

    def test_a_collapsed_catalogue_is_ranked_by_row(self):
        vectors = np.tile(np.float32([0.6, 0.8, 0, 0]), (5000, 1))
        found = self.build([str(n) for n in range(5000)], vectors).search(vectors[:3], 100)
        assert found.rows.tolist() == [list(range(100))] * 3

    def test_the_description_states_what_was_indexed(self):
        searcher = self.build(["a", "b"], np.float32([[1, 0], [0, 1]]))
        description = searcher.description()
        fingerprint = description.pop("fingerprint")
        assert description == {
            "kind": "exact",
            "size": 2,
            "dim": 2,
            "similarity": "cosine",
            "parameters": {},
            "recall": {"measured": 1.0},
        }
        assert fingerprint != self.build(["b", "a"], np.float32([[1, 0], [0, 1]])).description()["fingerprint"]
        assert fingerprint != self.build(["a", "b"], np.float32([[1, 0], [0, -1]])).description()["fingerprint"]
        assert fingerprint == self.build(["a", "b"], np.float32([[1, 0], [0, 1]])).description()["fingerprint"]


@pytest.mark.parametrize("rows_at_once", [1, 37, 1000])
def test_best_scores_are_those_of_a_whole_search_whatever_is_known_before(monkeypatch, rows_at_once):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(300, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    vectors[50:60] = vectors[7]  # ties, across blocks
    queries = np.concatenate([vectors[5:9], -vectors[:3]])
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 4 * len(queries) * rows_at_once)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    truth = -np.sort(-products, axis=1)[:, :5].astype(np.float32)
    searcher = ExactSearcher(ItemVectors([f"i{row}" for row in range(300)], vectors))
    too_high = np.where(np.arange(len(queries)) == 4, 0.9999, -1.0).astype(np.float32)  # then all are looked at
    for reached in (truth[:, -1], truth[:, -1] - np.float32(0.1), np.full(len(queries), -np.inf, np.float32), too_high):
        np.testing.assert_array_equal(searcher.best_scores(queries, 5, reached), truth)
