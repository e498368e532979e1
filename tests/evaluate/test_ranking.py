import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluate.worlds import metric_oracle
from twotower_tf.errors import DataError
from twotower_tf.evaluate import baselines, metrics
from twotower_tf.evaluate.metrics import Hits
from twotower_tf.evaluate.protocol import ItemLists, Queries
from twotower_tf.evaluate.ranking import rank, rank_scores


def lists(sets):
    pairs = [(query, item) for query, items in enumerate(sets) for item in sorted(items)]
    queries, items = np.array(pairs, np.int64).reshape(-1, 2).T
    return ItemLists.from_pairs(queries, items, len(sets))


def questions(relevant, seen):
    rows = np.arange(len(relevant))
    return Queries(rows, rows, lists(relevant), lists(seen))


def test_by_hand():
    """Five items on a half circle; the query looks along the first, which it has seen."""
    angles = np.radians([0, 30, 60, 90, 120])
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = rank(items[:1], items, questions([{2, 4}], [{0}]), (1, 2, 4, 100))
    # Order: 1, 2, 3, 4. Item 2 is second, item 4 fourth.
    means = found.mean()
    assert [means[f"recall@{k}"] for k in (1, 2, 4, 100)] == [0, 0.5, 1, 1]
    assert [means[f"hit_rate@{k}"] for k in (1, 2, 4, 100)] == [0, 1, 1, 1]
    assert [means[f"mrr@{k}"] for k in (1, 2, 4, 100)] == [0, 0.5, 0.5, 0.5]
    ideal = 1 + 1 / math.log2(3)
    assert means["ndcg@1"] == 0
    assert means["ndcg@2"] == pytest.approx(1 / math.log2(3) / ideal)
    assert means["ndcg@4"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert found.shown.tolist() == [0, 1, 1, 1, 1]


def test_metric_names_and_order():
    found = rank_scores(baselines.random(5, 1), 5, questions([{1}], [set()]), (3, 1))
    assert list(found.mean()) == [f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "mrr") for k in (3, 1)]


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_queries=st.integers(1, 9),
    num_items=st.integers(1, 300),
    levels=st.sampled_from([1, 3, 50]),
    block=st.integers(1, 10),
    threads=st.integers(1, 3),
)
def test_equals_the_slow_oracle(seed, num_queries, num_items, levels, block, threads):
    """Small whole numbers as coordinates: dot products are exact, so ties are ties."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, levels, (num_queries, 3)).astype(np.float32)
    items = rng.integers(0, levels, (num_items, 3)).astype(np.float32)
    relevant, seen = [], []
    for _ in range(num_queries):
        share = rng.choice([0.0, 0.1, 1.0])  # nothing, something, everything seen
        seen.append({item for item in range(num_items) if rng.random() < share})
        relevant.append({item for item in rng.integers(0, num_items, 5).tolist() if item not in seen[-1]})
    ks = (1, 7, 20, 1000)
    found = rank(users, items, questions(relevant, seen), ks, block=block, threads=threads)
    values = found.per_query()
    for query in range(num_queries):
        for k in ks:
            expected = metric_oracle((items @ users[query]).tolist(), relevant[query], seen[query], k)
            came = {name: values[f"{name}@{k}"][query] for name in metrics.NAMES}
            if expected is None:
                assert all(math.isnan(value) for value in came.values())
            else:
                assert came == pytest.approx(expected, abs=1e-12)
    answered = [query for query in range(num_queries) if relevant[query]]
    expected = np.mean([values["recall@7"][query] for query in answered]) if answered else None
    assert found.mean().get("recall@7") == (None if expected is None else pytest.approx(expected))


def test_only_marked_items_count_but_all_are_ranked():
    scores = np.float32([[5, 4, 3, 2, 1]])
    found = rank_scores(lambda start, stop: scores.copy(), 5, questions([{1, 4}], [set()]), (2, 5))
    cold = np.array([False, False, False, True, True])
    means = found.mean(item_mask=cold)
    assert (means["recall@2"], means["recall@5"], means["mrr@5"]) == (0.0, 1.0, 0.2)
    assert found.mean(item_mask=np.zeros(5, bool)) == {}
    assert found.relevant_of(cold).tolist() == [1]


def test_an_item_is_shown_once_per_query_and_not_where_it_was_seen():
    scores = np.tile(np.arange(30, 0, -1, dtype=np.float32), (4, 1))
    seen = [set(), {0}, set(range(30)), set(range(25))]
    found = rank_scores(lambda start, stop: scores[start:stop].copy(), 30, questions([{29}] * 4, seen), (5,))
    assert found.shown.tolist() == [1, *[2] * 9, 1, *[0] * 14, *[1] * 5]


def test_progress_is_told_in_queries():
    told = []
    rank_scores(
        baselines.random(9, 3),
        9,
        questions([{1}] * 7, [set()] * 7),
        (2,),
        block=3,
        progress=lambda *state: told.append(state),
    )
    assert told == [("rank", 0, 7), ("rank", 3, 7), ("rank", 6, 7), ("rank", 7, 7)]


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_diverged_model_is_refused(side):
    vectors = {"user": np.ones((3, 2), np.float32), "item": np.ones((4, 2), np.float32)}
    vectors[side][1] = np.nan
    with pytest.raises(
        DataError, match=rf"1 of \d {side} vectors hold NaN or infinity; the model diverged: lower train"
    ):
        rank(vectors["user"], vectors["item"], questions([{1}] * 3, [set()] * 3), (2,))


def test_hits_of_marked_items():
    hits = Hits(np.array([0, 0, 2]), np.array([1, 3, 0]), np.array([5, 1, 5], np.int32))
    kept = hits.of_items(np.arange(6) == 5)
    assert (kept.queries.tolist(), kept.places.tolist(), kept.items.tolist()) == ([0, 2], [1, 0], [5, 5])


def test_popularity_shows_everybody_the_items_trained_most_and_not_yet_seen():
    counts = np.array([2, 2**24, 0, 2**24 + 1, 2])
    found = rank_scores(
        baselines.popularity(counts), 5, questions([{1}, {1}, {0}, {4}], [set(), {3}, {1, 3}, {3}]), (1, 2)
    )
    # Order 3, 1, 0, 4, 2: counts beyond float32's whole numbers are told apart (as float32, 3 and 1 would be equal and
    # 1 would come first), equal counts come by row.
    assert found.per_query()["recall@1"].tolist() == [0, 1, 1, 0]
    assert found.per_query()["recall@2"].tolist() == [1, 1, 1, 0]


def test_chance_is_uniform_and_the_same_whatever_the_blocks():
    relevant = [{query % 50} for query in range(4000)]
    whole = rank_scores(baselines.random(50, 7), 50, questions(relevant, [set()] * 4000), (10,))
    parts = rank_scores(baselines.random(50, 7), 50, questions(relevant, [set()] * 4000), (10,), block=33, threads=2)
    other = rank_scores(baselines.random(50, 8), 50, questions(relevant, [set()] * 4000), (10,))
    np.testing.assert_array_equal(whole.per_query()["mrr@10"], parts.per_query()["mrr@10"])
    assert (whole.per_query()["mrr@10"] != other.per_query()["mrr@10"]).any()
    assert whole.mean()["recall@10"] == pytest.approx(10 / 50, abs=0.02)  # 3 standard errors
    assert whole.shown.sum() == 40_000
    assert whole.shown.min() > 650 and whole.shown.max() < 950  # 800 expected of each
