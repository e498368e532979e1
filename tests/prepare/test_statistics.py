"""Statistics of columns with more rows than float32 counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from twotower_tf.prepare.statistics import Array, compute_boundaries, compute_moments

_MANY = 16_777_216  # 2^24: float32 does not have the next whole number


def counted(*chunks: list[tuple[float, int]]) -> Iterator[tuple[Array, Array]]:
    """Distinct values with how often they come, chunk by chunk."""
    for chunk in chunks:
        values, counts = np.array(chunk, np.float64).T
        yield values, counts


def test_a_boundary_moves_with_one_row() -> None:
    # Half of 2^25 + 1 rows is reached by the (2^24 + 1)st, of 2^25 rows by the 2^24th.
    assert compute_boundaries(lambda: counted([(1.0, _MANY), (2.0, _MANY + 1)]), 2) == [2.0]
    assert compute_boundaries(lambda: counted([(1.0, _MANY)], [(2.0, _MANY)]), 2) == [1.0]


def test_each_row_counts() -> None:
    found = compute_moments(lambda: counted([(0.0, _MANY)], [(1.0, 1)]), log=False)
    assert found["count"] == 16_777_217
    np.testing.assert_allclose(found["mean"], 1 / 16_777_217, rtol=1e-12)
    np.testing.assert_allclose(found["std"], (1 / 16_777_217 - 1 / 16_777_217**2) ** 0.5, rtol=1e-12)
