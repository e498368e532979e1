import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower_tf.index import topk


def oracle(scores, k):
    return [sorted(range(len(row)), key=lambda column: (-row[column], column))[:k] for row in scores.tolist()]


def test_by_hand():
    scores = np.float32([[0.1, 0.9, 0.9, -1.0, 0.5], [-np.inf, 2.0, -np.inf, -np.inf, 1.0]])
    columns, values = topk.top_k(scores, 3)
    assert columns.tolist() == [[1, 2, 4], [1, 4, 0]]
    assert values.tolist() == [[np.float32(0.9), np.float32(0.9), 0.5], [2.0, 1.0, -np.inf]]


def test_more_than_there_are():
    columns, values = topk.top_k(np.float32([[1, 3, 2]]), 10)
    assert columns.tolist() == [[1, 2, 0]] and values.tolist() == [[3, 2, 1]]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 900)),
    k=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 10, 1000]),
    excluded=st.floats(0, 1),
)
def test_equals_a_full_sort_with_ties_and_exclusions(seed, shape, k, levels, excluded):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, shape).astype(np.float32)
    scores[rng.random(shape) < excluded] = -np.inf
    columns, values = topk.top_k(scores, k)
    assert columns.tolist() == oracle(scores, k)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, columns, axis=1))


def test_candidates_hold_everything_within_the_slack():
    scores = np.float32([[0.0, 1.0, 0.95, 0.5, 0.99], [3.0, 3.0, 3.0, 3.0, 3.0]])
    columns, there = topk.find_candidates(scores, 2, 0.05)
    assert [row[held].tolist() for row, held in zip(columns, there, strict=True)] == [[1, 2, 4], [0, 1, 2, 3, 4]]
    assert columns[~there].tolist() == [0] * (columns.size - 8)


def test_candidates_of_no_row():
    columns, there = topk.find_candidates(np.empty((0, 900), np.float32), 2, 0.1)
    assert len(columns) == len(there) == 0


def test_arrange_by_hand():
    """Numbers of every sign and size, the two zeros as one; what is not there comes nowhere."""
    values = np.float32([[-0.0, 0.5, 0.0, -np.inf, 9.0, -2.0, -1e-40, 0.5]])
    there = np.array([[True, True, True, True, False, True, True, True]])
    columns = np.int32([[3, 4, 5, 6, 7, 8, 9, 10]])
    found, ordered = topk.sort_candidates(columns, values, 7, there)
    assert found.tolist() == [[4, 10, 3, 5, 9, 8, 6]]
    assert ordered.tolist() == [[0.5, 0.5, 0.0, 0.0, float(np.float32(-1e-40)), -2.0, -np.inf]]
    found, ordered = topk.sort_candidates(np.arange(8, dtype=np.int32), values, 2)
    assert found.tolist() == [[4, 1]] and ordered.tolist() == [[9.0, 0.5]]


def test_threads():
    assert topk.available_threads(3) == 3
    assert topk.available_threads() >= 1
