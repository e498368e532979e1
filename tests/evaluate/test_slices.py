import numpy as np

from tests.evaluate.test_ranking import questions
from twotower_tf.evaluate import baselines, slices
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
    found = slices.compute_slices(model, popular, counts, np.array([0, 6]))

    def recalls(part):
        return part["metrics"]["recall@1"], part["popularity"]["recall@1"]

    items, users = found["item_popularity"], found["user_activity"]
    assert {name: recalls(items[name]) for name in items} == {"hot": (1, 1), "tail": (0, 0), "cold": (1, 0)}
    assert [items[name]["relevant"] for name in ("hot", "tail", "cold")] == [1, 1, 1]
    assert recalls(users["new"]) == (0.5, 0.5)
    assert recalls(users["low"]) == (1, 0)
    assert users["low"]["train_count"] == [6, 6]
    assert users["high"] == {"train_count": None, "queries": 0, "relevant": 0, "metrics": None, "popularity": None}
