"""Ineligible and filters against sorting all items for every query, on thousands of random cases."""

import dataclasses
import functools

import numpy as np
import pytest

from tests.index.contract import unit
from twotower_tf.config import IndexConfig
from twotower_tf.errors import DataError
from twotower_tf.index.backends import build_index
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.retrieval import filtered_search

EXACT_ITEMS, SCANN_ITEMS, DIM = 300, 4000, 12


def clustered(rng, count):
    centres = np.random.default_rng(0).standard_normal((30, DIM))
    vectors = centres[rng.integers(0, 30, count)] + 0.7 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact_items(rng):
    vectors = unit(rng, EXACT_ITEMS, DIM)
    vectors[rng.integers(0, EXACT_ITEMS, 40)] = vectors[7]  # ties
    return ItemVectors([f"i{row}" for row in range(EXACT_ITEMS)], vectors)


@pytest.fixture(scope="module")
def exact():
    return ExactSearcher(exact_items(np.random.default_rng(1)), threads=2)


@pytest.fixture(scope="module")
def scann():
    pytest.importorskip("scann", reason="ScaNN is not installed here")
    rng = np.random.default_rng(2)
    config = IndexConfig(kind="scann", k=20, target_recall=0.95)
    ids = [f"i{row}" for row in range(SCANN_ITEMS)]
    searcher = build_index(ids, clustered(rng, SCANN_ITEMS), config, clustered(rng, 400), threads=2)
    # Tuning chooses by measured speed, and some settings cost more than to score all of so few items.
    searcher.parameters = dataclasses.replace(searcher.parameters, leaves_to_search=12, reorder=70)
    return searcher


@functools.cache
def doubles(searcher):
    return searcher.items.vectors.astype(np.float64)


def ranked(searcher, query):
    """All rows, best first; equal scores by row."""
    scores = (doubles(searcher) @ query.astype(np.float64)).astype(np.float32)
    return np.argsort(-scores, kind="stable"), scores


def cases(rng, searcher, orders, near):
    """For every query a random list not to answer, short or long, of its nearest items or of any; and a filter."""
    size = len(searcher.items)
    gone = []
    for order in orders:
        count = int(rng.choice([0, 0, 1, 5, 30, size // 3]))
        if rng.random() < near:
            gone.append(order[:count])
        else:
            gone.append(rng.choice(size, count, replace=False))
    share = float(rng.choice([0.0, 0.004, 0.05, 0.5, 0.97, 1.0]))
    mask = rng.random(size) < share
    pairs = np.repeat(np.arange(len(orders)), [len(rows) for rows in gone])
    order = rng.permutation(len(pairs))
    rows = np.concatenate([*gone, np.empty(0, np.int64)])[order]
    twice = rng.integers(0, max(1, len(rows)), len(rows) // 10)  # repetitions, and unknown items
    excluded = Ineligible(
        np.concatenate([pairs[order], pairs[order][twice], [0]]),
        np.concatenate([rows, rows[twice], [-1]]).astype(np.int64),
        len(orders),
    )
    return [set(rows.tolist()) for rows in gone], excluded, mask


def expected(order, k, gone, mask):
    out = np.zeros(len(mask), np.bool_)
    out[list(gone)] = True
    return order[(mask & ~out)[order]][:k].tolist()


def test_exact_answers_are_those_of_a_full_sort(exact):
    rng = np.random.default_rng(3)
    for _ in range(60):
        k = int(rng.choice([1, 7, 50, EXACT_ITEMS, 2 * EXACT_ITEMS]))
        queries = unit(rng, 50, DIM)
        orders = [ranked(exact, query)[0] for query in queries]
        gone, excluded, mask = cases(rng, exact, orders, near=0.5)
        found = filtered_search.search(exact, queries, k, excluded, Eligible(mask))
        for number, query in enumerate(queries):
            answer = slice(found.offsets[number], found.offsets[number + 1])
            assert found.rows[answer].tolist() == expected(orders[number], k, gone[number], mask)
            np.testing.assert_allclose(found.scores[answer], ranked(exact, query)[1][found.rows[answer]], atol=1e-7)


def test_approximate_answers_are_whole_and_have_the_stated_recall(scann):
    rng = np.random.default_rng(4)
    recalls = []
    for _ in range(40):
        k = int(rng.choice([1, 20, 60]))
        queries = clustered(rng, 50)
        orders = [ranked(scann, query)[0] for query in queries]
        gone, excluded, mask = cases(rng, scann, orders, near=0.7)
        found = filtered_search.search(scann, queries, k, excluded, Eligible(mask))
        for number in range(len(queries)):
            rows = found.rows[found.offsets[number] : found.offsets[number + 1]].tolist()
            best = expected(orders[number], k, gone[number], mask)
            assert len(rows) == len(best) == len(set(rows))  # k items, or all that the query may have
            assert not set(rows) & gone[number] and mask[rows].all()
            if best:
                recalls.append(len(set(rows) & set(best)) / len(best))
    assert len(recalls) > 1000
    assert np.mean(recalls) >= 0.95


def test_where_few_pass_the_answer_is_exact(scann):
    rng = np.random.default_rng(5)
    queries = clustered(rng, 200)
    mask = np.zeros(SCANN_ITEMS, np.bool_)
    mask[rng.choice(SCANN_ITEMS, 90, replace=False)] = True
    found = filtered_search.search(scann, queries, 30, None, Eligible(mask))
    for number, query in enumerate(queries):
        rows = found.rows[found.offsets[number] : found.offsets[number + 1]].tolist()
        assert rows == expected(ranked(scann, query)[0], 30, set(), mask)


def test_where_the_nearest_thousands_fell_away_the_answer_is_whole(scann):
    """The popular items of a user's corner are all seen: what is left lies far beyond what was fetched."""
    rng = np.random.default_rng(6)
    queries = clustered(rng, 20)
    gone = [ranked(scann, query)[0][: SCANN_ITEMS - 5] for query in queries]
    excluded = Ineligible(np.repeat(np.arange(20), SCANN_ITEMS - 5), np.concatenate(gone), 20)
    found = filtered_search.search(scann, queries, 10, excluded)
    for number, query in enumerate(queries):
        rows = found.rows[found.offsets[number] : found.offsets[number + 1]].tolist()
        assert rows == ranked(scann, query)[0][SCANN_ITEMS - 5 :].tolist()


def test_a_filter_against_the_grain_of_the_query_is_answered_whole(scann):
    """Half of all items pass, and none of the nearest: what chance would leave is not there."""
    (query,) = clustered(np.random.default_rng(7), 1)
    order, _ = ranked(scann, query)
    mask = np.zeros(SCANN_ITEMS, np.bool_)
    mask[order[SCANN_ITEMS // 2 :]] = True
    found = filtered_search.search(scann, query[None], 20, None, Eligible(mask))
    assert len(found.rows) == 20 and mask[found.rows].all()
    assert len(set(found.rows.tolist()) & set(order[SCANN_ITEMS // 2 :][:20].tolist())) >= 18


def test_nothing_excluded_is_the_search_itself(scann):
    queries = clustered(np.random.default_rng(8), 70)
    plain = scann.search(queries, 20)
    found = filtered_search.search(scann, queries, 20)
    np.testing.assert_array_equal(found.rows.reshape(70, 20), plain.rows)
    np.testing.assert_array_equal(found.scores.reshape(70, 20), plain.scores)
    assert found.offsets.tolist() == list(range(0, 71 * 20, 20))
    assert found.item_ids.tolist() == [f"i{row}" for row in found.rows]


def test_an_answer_is_the_same_in_any_company(scann):
    rng = np.random.default_rng(9)
    queries = clustered(rng, 40)
    orders = [ranked(scann, query)[0] for query in queries]
    _, excluded, mask = cases(rng, scann, orders, near=0.5)
    whole = filtered_search.search(scann, queries, 15, excluded, Eligible(mask))
    for number in range(40):
        alone = filtered_search.search(scann, queries[[number]], 15, excluded.take(np.array([number])), Eligible(mask))
        np.testing.assert_array_equal(alone.rows, whole.rows[whole.offsets[number] : whole.offsets[number + 1]])


def test_nobody_asks_and_nothing_is_allowed(exact):
    nobody = filtered_search.search(exact, np.empty((0, DIM), np.float32), 5)
    assert nobody.offsets.tolist() == [0] and len(nobody.rows) == 0
    none = filtered_search.search(
        exact, unit(np.random.default_rng(0), 3, DIM), 5, None, Eligible(np.zeros(300, np.bool_))
    )
    assert none.offsets.tolist() == [0, 0, 0, 0] and none.item_ids.tolist() == []


def test_an_unusable_query_is_refused_before_the_search(exact):
    with pytest.raises(DataError, match="k: invalid value 0 .expected at least 1"):
        filtered_search.search(exact, unit(np.random.default_rng(0), 3, DIM), 0)


def test_excluded_lists_of_ids():
    items = exact_items(np.random.default_rng(1))
    gone = Ineligible.of([["i5", "i2", "i5"], [], ["stranger", "i299"]], items)
    assert (gone.offsets.tolist(), gone.rows.tolist()) == ([0, 2, 2, 3], [2, 5, 299])
    assert gone.counts.tolist() == [2, 0, 1] and gone.queries.tolist() == [0, 0, 2]
    part = gone.take(np.array([2, 0]))
    assert (part.offsets.tolist(), part.rows.tolist()) == ([0, 1, 3], [299, 2, 5])
    mask = np.zeros(300, np.bool_)
    mask[[1, 5, 299]] = True
    places = gone.within(Eligible(mask))  # item 5 is the second of those allowed, item 299 the third
    assert (places.offsets.tolist(), places.rows.tolist()) == ([0, 1, 1, 2], [1, 2])
    hits = gone.hits(np.array([[5, 6], [5, 2], [2, 299]], np.int32))
    assert hits.tolist() == [[True, False], [False, False], [False, True]]
