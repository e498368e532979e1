"""Converts numbers between Arrow and NumPy as views of the same memory, without pandas.

The first conversion by pyarrow itself, also of a single value, imports pandas, which takes a fifth of a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def view_as_numpy(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns numbers `[n]` without null as an array that must not be written to; several chunks are copied to one."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    array: npt.NDArray[Any] = np.from_dlpack(column)
    return array


def view_as_arrow(numbers: npt.NDArray[Any]) -> pa.Array:
    """Returns numbers `[n]` as an Arrow array."""
    buffer = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, buffer])


def fill_missing(column: pa.Array, number: float) -> pa.Array:
    """Returns a column of numbers with `number` in place of null."""
    kind = np.dtype(column.type.to_pandas_dtype())
    return column.fill_null(view_as_arrow(np.array([number], kind))[0])
