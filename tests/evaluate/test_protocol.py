import numpy as np
import pytest

from tests.evaluate.worlds import FakePrepared, query_oracle, random_world
from twotower_tf.config import EvaluationConfig
from twotower_tf.evaluate import protocol
from twotower_tf.evaluate.protocol import ItemLists


def as_sets(lists):
    query, item = lists.block(0, len(lists))
    return [set(item[query == each].tolist()) for each in range(len(lists))]


WORLD = FakePrepared(
    num_users=4,
    num_items=6,
    train=[(0, 0, 1), (1, 1, 1), (0, 2, 0), (0, 3, 1)],
    valid=[(0, 4, 1), (1, 0, 0)],
    test=[(1, 1, 1), (0, 4, 1), (0, 5, 0), (0, 2, 1), (1, 5, 1), (0, 1, 1), (0, 2, 1), (2, 3, 1), (1, 1, 1)],
)


def test_users_by_hand():
    """User 0 saw 0, 3 and 4; user 1 saw 1; user 2 nothing; user 3 is not in the test split."""
    found = protocol.build_queries(WORLD, EvaluationConfig(), "test")
    assert found.user_rows.tolist() == [0, 1, 2]
    assert found.example_rows.tolist() == [1, 0, 7]  # the first positive, although it had been seen
    assert as_sets(found.relevant) == [{1, 2}, {5}, {3}]
    assert as_sets(found.seen) == [{0, 3, 4}, {1}, set()]


def test_events_by_hand():
    found = protocol.build_queries(WORLD, EvaluationConfig(query="event"), "test")
    assert found.example_rows.tolist() == [3, 4, 5, 6, 7]
    assert found.user_rows.tolist() == [0, 1, 0, 0, 2]
    assert as_sets(found.relevant) == [{2}, {5}, {1}, {2}, {3}]
    assert found.all_seen == 3


def test_seen_items_stay_where_they_are_not_excluded():
    found = protocol.build_queries(WORLD, EvaluationConfig(exclude_seen=False), "test")
    assert as_sets(found.relevant) == [{1, 2, 4}, {1, 5}, {3}]
    assert as_sets(found.seen) == [set(), set(), set()]


def test_validation_knows_only_training():
    """User 0's validation positive 4 does not test memory: only 0 and 3 are seen then."""
    found = protocol.build_queries(WORLD, EvaluationConfig(), "valid")
    assert (found.user_rows.tolist(), as_sets(found.relevant), as_sets(found.seen)) == ([0], [{4}], [{0, 3}])


def test_a_user_who_saw_all_that_is_held_out_is_not_asked_and_counted():
    world = FakePrepared(2, 3, train=[(0, 1, 1), (0, 2, 1)], test=[(0, 1, 1), (0, 2, 1), (1, 0, 1)])
    found = protocol.build_queries(world, EvaluationConfig(), "test")
    assert found.user_rows.tolist() == [1] and found.all_seen == 1


def test_a_split_without_positives_has_no_queries():
    found = protocol.build_queries(FakePrepared(2, 3, train=[(0, 1, 1)], test=[(0, 1, 0)]), EvaluationConfig(), "test")
    assert len(found) == 0 and found.all_seen == 0
    assert len(protocol.build_queries(FakePrepared(2, 3), EvaluationConfig(query="event"), "valid")) == 0


@pytest.mark.parametrize("query", ["user", "event"])
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_random_worlds_against_dictionaries(query, exclude_seen, split, monkeypatch):
    monkeypatch.setattr(protocol, "_CHUNK", 7)
    rng = np.random.default_rng(21)
    for _ in range(30):
        world = random_world(rng)
        found = protocol.build_queries(world, EvaluationConfig(query=query, exclude_seen=exclude_seen), split)
        expected = query_oracle(world, split, query, exclude_seen)
        relevant, seen = as_sets(found.relevant), as_sets(found.seen)
        got = list(zip(found.example_rows.tolist(), found.user_rows.tolist(), relevant, seen, strict=True))
        assert got == expected


def test_blocks_of_lists():
    lists = ItemLists(np.array([4, 0, 2]), np.array([6, 2, 2]), np.array([7, 8, 0, 0, 1, 2], np.int32))
    query, item = lists.block(0, 3)
    assert (query.tolist(), item.tolist()) == ([0, 0, 1, 1], [1, 2, 7, 8])
    query, item = lists.block(1, 3)
    assert (query.tolist(), item.tolist()) == ([0, 0], [7, 8])
    assert lists.counts.tolist() == [2, 2, 0]
