import numpy as np
import pytest

from tests.evaluate.test_ranking import questions
from twotower_tf.evaluate.score_distributions import measure_scores


def test_held_out_items_in_the_direction_of_their_query_and_random_ones():
    """Two directions: of the held-out items three in four have the query's; a random item has it with half a chance."""
    items = np.float32([[1, 0], [0, 1]] * 50)
    users = np.float32([[1, 0]] * 4000)
    found = measure_scores(
        items, users, questions([{1} if query % 4 == 0 else {0} for query in range(4000)], [()] * 4000), 3
    )
    assert found["pairs"] == 4000
    assert found["held_out"]["mean"] == pytest.approx(0.75) and found["held_out"]["p5"] == 0
    assert found["random"]["mean"] == pytest.approx(0.5, abs=0.03)
    # above 3/4 * 1/2, equal 1/2
    assert found["above"] == pytest.approx(0.375 + 0.25, abs=0.03)
    histogram = found["histogram"]
    assert histogram["edges"][0] == -1 and histogram["edges"][-1] == 1 and len(histogram["edges"]) == 41
    assert (histogram["held_out"][20], histogram["held_out"][39], sum(histogram["held_out"])) == (1000, 3000, 4000)


def test_of_many_held_out_items_a_part_counts():
    items, users = np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32)[np.arange(4000) % 8]
    queries = questions([set(range(8)) for _ in range(4000)], [()] * 4000)
    found = measure_scores(items, users, queries, 3)
    assert found["pairs"] == 20_000
    assert found["held_out"]["mean"] == pytest.approx(1 / 8, abs=0.02)
