"""Users of a data frame: their answers are those of rows."""

import numpy as np
import pandas as pd
import pytest

from tests.retrieval.test_recommender import FEATURES
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.errors import DataError


def test_a_data_frame_is_answered_as_its_rows_are(recommender, export_dir):
    users = pd.DataFrame(
        {
            "user_id": ["u000003", None, "u000004"],
            "age": pd.array([31, pd.NA, 52], dtype="Int64"),
            "country": pd.Series(["DE", np.nan, "US"], index=["a", "b", "a"]).to_numpy(),
            "timestamp": pd.to_datetime(["2025-01-09T12:00:00Z", None, "2025-01-08"], utc=True, format="ISO8601"),
            "history": [["i00001", "i00002"], None, []],
        },
        index=["a", "b", "a"],
    )
    rows = [
        {
            "user_id": "u000003",
            "age": 31,
            "country": "DE",
            "timestamp": "2025-01-09T12:00:00Z",
            "history": ["i00001", "i00002"],
        },
        {},
        {"user_id": "u000004", "age": 52, "country": "US", "timestamp": "2025-01-08T00:00:00Z"},
    ]
    got = recommender.recommend_frame(users, 4)
    assert got["user"].tolist() == ["a"] * 4 + ["b"] * 4 + ["a"] * 4
    assert got["rank"].tolist() == [1, 2, 3, 4] * 3
    expected = recommender.recommend(rows, 4)
    assert got["item_id"].tolist() == [item for answer in expected for item in answer["item_ids"]]
    np.testing.assert_allclose(got["score"], [score for answer in expected for score in answer["scores"]], atol=1e-6)
    titles = {item["item_id"]: item["item_name"] for item in Bundle.open(export_dir).items.to_pylist()}
    assert got["item_name"].tolist() == [titles[item] for item in got["item_id"]]
    assert set(got["model_version"]) == {7}


def test_columns_of_a_data_frame_that_are_no_feature_are_ignored(recommender):
    users = pd.DataFrame({"country": ["DE", "FR"], "signed_up": [1, 2], "purchases": [[], ["i00001"]]})
    expected = recommender.recommend([{"country": "DE"}, {"country": "FR"}], 3)
    assert recommender.recommend_frame(users, 3)["item_id"].tolist() == [
        item for answer in expected for item in answer["item_ids"]
    ]


def test_a_data_frame_without_a_feature_is_refused(recommender):
    with pytest.raises(DataError) as raised:
        recommender.recommend_frame(pd.DataFrame({"contry": ["DE"]}), 3)
    assert str(raised.value) == (
        f"users: no feature among the columns 'contry' (expected at least one of {FEATURES}); rename them"
    )


def test_items_excluded_from_a_data_frame(recommender):
    """By a column of lists, or by lists in the order of the rows; the rest of the catalogue is answered in order."""
    whole = [answer["item_ids"] for answer in recommender.recommend([{}, {"country": "DE"}, {}], 150)]
    gone = [whole[0][:3], whole[1][1:2], None]
    users = pd.DataFrame({"country": [None, "DE", None], "bought": gone}, index=["a", "b", "c"])
    for exclude in ("bought", [gone[0], gone[1], []]):
        found = recommender.recommend_frame(users, 5, exclude=exclude)
        for label, ids, left_out in zip("abc", whole, gone, strict=True):
            left = [item for item in ids if item not in (left_out or [])]
            assert found.loc[found["user"] == label, "item_id"].tolist() == left[:5]
    with pytest.raises(DataError, match="^exclude: unknown column of users 'bougth'; did you mean 'bought'"):
        recommender.recommend_frame(users, 5, exclude="bougth")
    with pytest.raises(DataError, match="exclude: invalid number of lists 1 .expected 3, one per user"):
        recommender.recommend_frame(users, 5, exclude=[["i00001"]])
