import dataclasses

import numpy as np
import pytest

from tests.evaluate.test_ranking import questions
from tests.evaluate.worlds import metric_oracle
from twotower_tf.evaluate import baselines, slices
from twotower_tf.evaluate.feature_values import FeatureValues
from twotower_tf.evaluate.ranking import rank_scores


def test_popularity_slices_part_the_catalogue():
    counts = np.array([0, 5, 1, 9, 0, 5, 1, 1, 1, 1, 1, 1, 3])  # eleven trained items: two are hot
    masks = slices.item_popularity(counts)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "hot": [1, 3],
        "tail": [2, 5, 6, 7, 8, 9, 10, 11, 12],
        "cold": [0, 4],
    }


def test_hot_items_are_told_apart_beyond_float32s_whole_numbers():
    counts = np.array([2**24, 2**24 + 1, *[1] * 8])  # ten trained items: one is hot
    assert np.flatnonzero(slices.item_popularity(counts)["hot"]).tolist() == [1]


def test_activity_slices_part_the_users():
    masks = slices.user_activity(np.array([0, 1, 1, 2, 3, 8, 9]))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "new": [0],
        "low": [1, 2],
        "medium": [3, 4],
        "high": [5, 6],
    }


def test_users_without_any_training_are_all_new():
    masks = slices.user_activity(np.zeros(3, np.int64))
    assert masks["new"].all() and not (masks["low"] | masks["medium"] | masks["high"]).any()


def test_each_slice_by_hand():
    """Two users. The model finds the hot item of the first and the cold item of the second at once, nothing else."""
    counts = np.array([4, 1, 0])
    scores = np.float32([[3, 1, 2], [1, 2, 3]])
    asked = questions([{0, 1}, {2}], [set(), set()])
    model = rank_scores(lambda start, stop: scores[start:stop].copy(), 3, asked, (1,))
    popular = rank_scores(baselines.popularity_scorer(counts), 3, asked, (1,))
    found = slices.compute_slices(model, popular, asked, counts, np.array([0, 6]))

    def recalls(part):
        return part["metrics"]["recall@1"], part["popularity"]["recall@1"]

    items, users = found["item_popularity"], found["user_activity"]
    assert {name: recalls(items[name]) for name in items} == {"hot": (1, 1), "tail": (0, 0), "cold": (1, 0)}
    assert [items[name]["relevant"] for name in ("hot", "tail", "cold")] == [1, 1, 1]
    assert recalls(users["new"]) == (0.5, 0.5)
    assert recalls(users["low"]) == (1, 0)
    assert users["low"]["train_count"] == [6, 6]
    nothing = {"users": 0, "queries": 0, "relevant": 0, "metrics": None, "popularity": None}
    assert users["high"] == {"train_count": None, **nothing}


def values_of(side, *rows, ordered=False):
    """Values of rows, each a text of letters that are one value each."""
    names = sorted(set("".join(rows)))
    pairs = [(row, names.index(name)) for row, text in enumerate(rows) for name in text]
    places, codes = np.array(pairs, np.int64).reshape(-1, 2).T
    return FeatureValues("column", side, names, places, codes, len(rows), ordered)


def marked(*arguments):
    return {name: np.flatnonzero(mask).tolist() for name, mask in slices.mark_values(*arguments).items()}


def test_values_are_in_the_order_of_their_users():
    """Four queries of one user count once; a row with two values is in both slices, one without in none's."""
    values = values_of("user", "a", "a", "a", "a", "bc", "b", "")
    assert marked(values, np.arange(7), np.array([0, 0, 0, 0, 1, 2, 3])) == {
        "b": [4, 5],
        "a": [0, 1, 2, 3],
        "c": [4],
        "(none)": [6],
    }
    assert [*marked(dataclasses.replace(values, ordered=True), np.arange(7), np.arange(7))] == ["a", "b", "c", "(none)"]


def test_the_values_of_fewer_users_are_one_slice():
    letters = "abcdefghijklm"
    rows = [letter for place, letter in enumerate(letters) for _ in range(20 - place)]
    found = marked(values_of("user", *rows), np.arange(len(rows)), np.arange(len(rows)))
    assert [*found] == [*"abcdefghij", "(other)"]
    assert {rows[row] for row in found["(other)"]} == {*"klm"}
    values = dataclasses.replace(values_of("user", "a", "b"), names=["(none)", "b"])  # a value with the name of a slice
    assert marked(values, np.arange(2), np.arange(2)) == {"b": [1], "(other)": [0]}


def test_items_count_the_users_whose_held_out_items_have_the_value():
    """Item 0 is held out for three queries of one user, item 1 for two users, item 2 for nobody."""
    values = values_of("item", "a", "b", "c")
    found = marked(values, np.array([0, 0, 0, 1, 1]), np.array([7, 7, 7, 7, 8]))
    assert found == {"b": [1], "a": [0], "c": [2]} and [*found] == ["b", "a", "c"]


def test_feature_slices_equal_the_metrics_of_their_queries_and_items():
    rng = np.random.default_rng(6)
    scores = rng.integers(0, 6, (30, 12)).astype(np.float32)
    relevant = [set(rng.choice(12, 3, replace=False).tolist()) for _ in range(30)]
    asked = dataclasses.replace(questions(relevant, [set()] * 30), user_rows=np.arange(30) // 2)
    counts = rng.integers(0, 9, 12)
    model = rank_scores(lambda start, stop: scores[start:stop].copy(), 12, asked, (3,))
    popular = rank_scores(baselines.popularity_scorer(counts), 12, asked, (3,))
    of_user = values_of("user", *(("a", "b", "")[query // 2 % 3] for query in range(30)))
    of_item = values_of("item", *(("x", "xy", "y", "")[item % 4] for item in range(12)))
    found = slices.compute_slices(model, popular, asked, counts, np.arange(15), (of_user, of_item))
    assert [*found] == ["item_popularity", "user_activity", "user.column", "item.column"]
    assert {name: figures["users"] for name, figures in found["user.column"].items()} == {"a": 5, "b": 5, "(none)": 5}
    for place, name in enumerate(("a", "b", "(none)")):
        queries = [query for query in range(30) if query // 2 % 3 == place]
        figures = found["user.column"][name]
        assert (figures["queries"], figures["relevant"]) == (10, 30)
        for key, ranked in (("metrics", scores), ("popularity", np.tile(counts, (30, 1)))):
            values = [metric_oracle(ranked[query].tolist(), relevant[query], set(), 3)["ndcg"] for query in queries]
            assert figures[key]["ndcg@3"] == pytest.approx(np.mean(values))
    for name, own in (("x", {0, 1, 4, 5, 8, 9}), ("y", {1, 2, 5, 6, 9, 10}), ("(none)", {3, 7, 11})):
        figures, answered = found["item.column"][name], [query for query in range(30) if relevant[query] & own]
        values = [
            metric_oracle(scores[query].tolist(), relevant[query] & own, set(), 3)["recall"] for query in answered
        ]
        assert figures["metrics"]["recall@3"] == pytest.approx(np.mean(values))
        assert (figures["items"], figures["users"], figures["queries"], figures["relevant"]) == (
            len(own), len({query // 2 for query in answered}), len(answered), sum(len(each & own) for each in relevant)
        )  # fmt: skip
