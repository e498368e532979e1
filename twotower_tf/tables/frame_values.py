"""Values of a pandas data frame, one by one, as rows of a request have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower_tf.tables.values import is_missing

if TYPE_CHECKING:
    import pandas as pd


def is_gap(value: Any) -> bool:
    """Returns whether a cell has neither a value nor a list."""
    return not isinstance(value, Iterable) and is_missing(value)


def list_scalars(column: pd.Series[Any]) -> list[Any]:
    """Returns a column's values; a float32 stays one: as a double its text differs (0.10000000149011612)."""
    stored = column.cat.categories.dtype if column.dtype == "category" else column.dtype
    kind = getattr(stored, "numpy_dtype", stored)
    if kind in (np.float16, np.float32):
        return list(column.to_numpy(kind, na_value=np.nan))
    return list(column)
