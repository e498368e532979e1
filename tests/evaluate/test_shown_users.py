import numpy as np

from tests.evaluate.worlds import FakePrepared
from twotower_tf.config import EvaluationConfig
from twotower_tf.evaluate.protocol import build_queries
from twotower_tf.evaluate.shown_users import collect_users


def test_one_user_by_hand():
    """User 1 had items 4, 2 and then 5; item 3 is held out. Vectors lie on a line, so that 0 is best, 7 worst."""
    world = FakePrepared(2, 8, train=[(1, 4, 1), (1, 2, 1)], valid=[(1, 5, 1)], test=[(1, 3, 1)])
    queries = build_queries(world, EvaluationConfig(ks=(5,)), "test")
    angles = np.arange(8) * 0.1
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    (found,) = collect_users(world, queries, "test", items, np.float32([[1, 0]]))
    assert found["user"] == "u1"
    assert found["history"] == [
        {"id": "i5", "name": ""}, {"id": "i2", "name": "Item 2"}, {"id": "i4", "name": "Item 4"}
    ]  # fmt: skip
    assert found["held_out"] == [{"id": "i3", "name": "Item 3"}]
    assert [each["id"] for each in found["recommended"]] == ["i0", "i1", "i3", "i6", "i7"]
    assert found["recommended"][2] == {"id": "i3", "name": "Item 3", "score": 0.9553, "held_out": True}
    assert not found["recommended"][0]["held_out"]
