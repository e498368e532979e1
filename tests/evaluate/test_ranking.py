import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluate.worlds import every_order, metric_oracle, ordered_metrics
from twotower_tf.errors import DataError
from twotower_tf.evaluate import baselines, ranking_metrics
from twotower_tf.evaluate.protocol import ItemLists, Queries
from twotower_tf.evaluate.ranking import rank, rank_scores
from twotower_tf.evaluate.ranking_metrics import Hits


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
    found = rank_scores(baselines.random_scorer(5, 1), 5, questions([{1}], [set()]), (3, 1))
    assert list(found.mean()) == [
        f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate", "mrr", "map") for k in (3, 1)
    ]


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
            got = {name: values[f"{name}@{k}"][query] for name in ranking_metrics.NAMES}
            if expected is None:
                assert all(math.isnan(value) for value in got.values())
            else:
                assert got == pytest.approx(expected, abs=1e-12)
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
    calls = []
    rank_scores(
        baselines.random_scorer(9, 3),
        9,
        questions([{1}] * 7, [set()] * 7),
        (2,),
        block=3,
        progress=lambda *state: calls.append(state),
    )
    assert calls == [("rank", 0, 7), ("rank", 3, 7), ("rank", 6, 7), ("rank", 7, 7)]


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_diverged_model_is_refused(side):
    vectors = {"user": np.ones((3, 2), np.float32), "item": np.ones((4, 2), np.float32)}
    vectors[side][1] = np.nan
    with pytest.raises(
        DataError,
        match=rf"^evaluation: 1 of \d {side} vectors have NaN or infinite values .the model diverged.; lower tr",
    ):
        rank(vectors["user"], vectors["item"], questions([{1}] * 3, [set()] * 3), (2,))


def test_hits_of_marked_items():
    hits = Hits(np.array([0, 0, 2]), np.array([1, 3, 0]), np.array([1, 4, 2]), np.array([5, 1, 5], np.int32))
    kept = hits.of_items(np.arange(6) == 5)
    assert (kept.queries.tolist(), kept.items.tolist()) == ([0, 2], [5, 5])
    assert (kept.above.tolist(), kept.tied.tolist()) == ([1, 0], [1, 2])


def test_popularity_shows_everybody_the_items_trained_most_and_not_yet_seen():
    counts = np.array([2, 2**24, 0, 2**24 + 1, 2])
    found = rank_scores(
        baselines.popularity_scorer(counts), 5, questions([{1}, {1}, {0}, {4}], [set(), {3}, {1, 3}, {3}]), (1, 2)
    )
    # Order 3, 1, then 0 and 4 by chance, 2: counts beyond float32's whole numbers are distinguished (as float32, 3 and
    # 1 would be equal).
    assert found.per_query()["recall@1"].tolist() == [0, 1, 0.5, 0]
    assert found.per_query()["recall@2"].tolist() == [1, 1, 1, 0.5]


def test_chance_is_uniform_and_the_same_whatever_the_blocks():
    relevant = [{query % 50} for query in range(4000)]
    whole = rank_scores(baselines.random_scorer(50, 7), 50, questions(relevant, [set()] * 4000), (10,))
    parts = rank_scores(
        baselines.random_scorer(50, 7), 50, questions(relevant, [set()] * 4000), (10,), block=33, threads=2
    )
    other = rank_scores(baselines.random_scorer(50, 8), 50, questions(relevant, [set()] * 4000), (10,))
    np.testing.assert_array_equal(whole.per_query()["mrr@10"], parts.per_query()["mrr@10"])
    assert (whole.per_query()["mrr@10"] != other.per_query()["mrr@10"]).any()
    assert whole.mean()["recall@10"] == pytest.approx(10 / 50, abs=0.02)  # 3 standard errors
    assert whole.shown.sum() == 40_000
    assert whole.shown.min() > 650 and whole.shown.max() < 950  # 800 expected of each


# --- ties ---------------------------------------------------------------------------------------------------------


def test_ties_by_hand():
    """Six items: one above, four of one score with two relevant ones among them, one below."""
    scores = np.float32([[1, 5, 5, 9, 5, 5]])
    found = rank_scores(lambda start, stop: scores.copy(), 6, questions([{1, 4}], [set()]), (1, 2, 3, 5))
    means = found.mean()
    # Two of the four tied items, each at places 2 to 5 with equal chance; k - 1 of these places are within k.
    assert [means[f"recall@{k}"] for k in (1, 2, 3, 5)] == pytest.approx([0, 1 / 4, 2 / 4, 1])
    # none of the two in one place of four: 1/2; in two places: 1/6
    assert [means[f"hit_rate@{k}"] for k in (1, 2, 3, 5)] == pytest.approx([0, 1 / 2, 5 / 6, 1])
    # the first of the two is at place 2, 3, 4 of the list with chance 3/6, 2/6, 1/6
    assert [means[f"mrr@{k}"] for k in (1, 2, 3, 5)] == pytest.approx(
        [0, 3 / 12, 3 / 12 + 2 / 18, 3 / 12 + 2 / 18 + 1 / 24]
    )
    ideal = 1 + 1 / math.log2(3)
    assert means["ndcg@2"] == pytest.approx(2 / 4 / math.log2(3) / ideal)
    assert means["ndcg@5"] == pytest.approx(
        2 / 4 * (1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5) + 1 / math.log2(6)) / ideal
    )
    assert found.shown.tolist() == [1] * 6


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    relevant=st.sets(st.integers(0, 5), min_size=1),
    seen=st.sets(st.integers(0, 5), max_size=2),
)
def test_metrics_are_averages_over_every_order_of_tied_items(scores, relevant, seen):
    relevant = {item for item in relevant if item < len(scores) and item not in seen}
    seen = {item for item in seen if item < len(scores)}
    if not relevant:
        return
    table = np.float32([scores])
    ks = (1, 2, 3, 5, 9)
    found = rank_scores(lambda start, stop: table.copy(), len(scores), questions([relevant], [seen]), ks).mean()
    for k in ks:
        expected = every_order(scores, relevant, seen, k)
        assert {name: found[f"{name}@{k}"] for name in ranking_metrics.NAMES} == pytest.approx(expected, abs=1e-12)
        assert metric_oracle(scores, relevant, seen, k) == pytest.approx(expected, abs=1e-12)


def test_the_average_over_random_orders_is_the_expectation():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, 60).astype(np.float32)
    relevant = {3, 17, 18, 40, 59}
    found = rank_scores(
        lambda start, stop: scores[np.newaxis].copy(), 60, questions([relevant], [set()]), (5, 20)
    ).mean()
    orders = [np.lexsort((rng.random(60), -scores)).tolist() for _ in range(4000)]
    for k in (5, 20):
        drawn = [ordered_metrics(order, relevant, k) for order in orders]
        for name in ranking_metrics.NAMES:
            values = [each[name] for each in drawn]
            assert found[f"{name}@{k}"] == pytest.approx(np.mean(values), abs=4 * np.std(values) / 4000**0.5 + 1e-9)


def test_the_order_of_the_rows_changes_no_metric():
    rng = np.random.default_rng(4)
    users, items = rng.integers(-2, 3, (30, 3)), rng.integers(-2, 3, (90, 3))
    relevant = [set(rng.integers(0, 90, 4).tolist()) for _ in range(30)]
    renamed = rng.permutation(90)
    moved = np.empty_like(items)
    moved[renamed] = items
    before = rank(*np.float32([users]), *np.float32([items]), questions(relevant, [set()] * 30), (3, 10)).mean()
    after_relevant = [{int(renamed[item]) for item in each} for each in relevant]
    after = rank(*np.float32([users]), *np.float32([moved]), questions(after_relevant, [set()] * 30), (3, 10)).mean()
    assert after == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_model_whose_vectors_are_one_scores_like_chance(noise):
    """Also where rounding makes the vectors differ, and most in the items that are wanted."""
    rng = np.random.default_rng(5)
    items = np.tile(rng.normal(size=16), (400, 1))
    items /= np.linalg.norm(items[0])
    items *= 1.0 + noise * np.linspace(1, 0, 400)[:, np.newaxis]  # popular ones have the lower rows
    users = items[:1].repeat(50, axis=0)
    relevant = [set(range(query % 10, 40, 10)) for query in range(50)]
    found = rank(
        users.astype(np.float32), items.astype(np.float32), questions(relevant, [set()] * 50), (20, 100)
    ).mean()
    assert found["recall@20"] == pytest.approx(20 / 400)
    assert found["recall@100"] == pytest.approx(100 / 400)
    assert found["hit_rate@20"] == pytest.approx(1 - math.comb(396, 20) / math.comb(400, 20))


def test_small_differences_that_are_no_rounding_count():
    angles = np.linspace(1.0, 1.4, 300)  # neighbours' cosines to the query differ by a thousandth
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = rank(np.float32([[1, 0]]), items, questions([{0, 1, 2}], [set()]), (3,)).mean()
    assert found["recall@3"] == 1.0 and found["ndcg@3"] == pytest.approx(1.0)
