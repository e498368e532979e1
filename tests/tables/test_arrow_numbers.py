"""Numbers keep their values and types between Arrow and NumPy, whatever the chunks, slices and missing values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from twotower_tf.tables.arrow_numbers import fill_missing, view_as_arrow, view_as_numpy

KINDS = {"int8": pa.int8(), "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(), "float64": pa.float64()}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers(kind: str) -> None:
    column = pa.array([7, 1, 2, 3], KINDS[kind])
    for part, expected in (
        (column, [7, 1, 2, 3]),
        (column.slice(1, 2), [1, 2]),
        (column.slice(0, 0), []),
        (pa.chunked_array([column, column.slice(2)]), [7, 1, 2, 3, 2, 3]),
        (pa.chunked_array([], KINDS[kind]), []),
    ):
        found = view_as_numpy(part)
        assert (found.tolist(), found.dtype) == (expected, np.dtype(kind))
    back = view_as_arrow(np.array([9, 7, 8, 1, 5], kind)[::2])  # not contiguous
    assert (back.to_pylist(), back.type) == ([9, 8, 5], KINDS[kind])
    missing = pa.array([None, 4, None, 5], KINDS[kind])
    assert fill_missing(missing.slice(1), -1).to_pylist() == [4, -1, 5]
    assert fill_missing(column, -1).to_pylist() == [7, 1, 2, 3]


def test_fill_with_nan() -> None:
    assert np.isnan(view_as_numpy(fill_missing(pa.array([None, 1.5]), float("nan")))).tolist() == [True, False]
