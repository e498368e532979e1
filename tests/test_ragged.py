"""Ragged rows against loops over lists."""

import numpy as np
import pytest

from twotower_tf import ragged


@pytest.mark.parametrize("counts", [[], [0], [3], [2, 0, 1, 4], [0, 0, 5, 0]])
def test_lists_one_after_the_other(counts: list[int]) -> None:
    lists = [[f"{row}.{place}" for place in range(count)] for row, count in enumerate(counts)]
    values = np.array([value for each in lists for value in each], object)
    offsets = ragged.to_offsets(np.array(counts, np.int32))
    assert offsets.dtype == np.int64
    assert [values[start:end].tolist() for start, end in zip(offsets[:-1], offsets[1:], strict=True)] == lists
    assert ragged.to_rows(np.array(counts, np.int64)).tolist() == [row for row, each in enumerate(lists) for _ in each]


def test_places_of_chosen_ranges() -> None:
    starts, counts = np.array([7, 0, 3, 7]), np.array([2, 0, 3, 1])
    assert ragged.to_places(starts, counts).tolist() == [7, 8, 3, 4, 5, 7]
    assert ragged.to_places(starts[:0], counts[:0]).tolist() == []
