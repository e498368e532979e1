"""Filters: a boolean SQL expression over the catalogue's columns, which strangers may write.

A filter is checked before it is run (see `sql`), and runs in a DuckDB of its own that holds the catalogue only and has
no access to files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf import sql
from twotower_tf.errors import DataError

Mask = npt.NDArray[np.bool_]

_CACHED = 64  # filters; a mask is one byte per item
_TABLE = "items"


class Filters:
    """Evaluates filters over a catalogue, and remembers the latest ones. May be used from several threads.

    Attributes:
        columns: names that a filter may use.
    """

    def __init__(self, catalogue: pa.Table) -> None:
        """Keeps the catalogue, in row order."""
        self.columns = tuple(catalogue.column_names)
        self._size = catalogue.num_rows
        self._known: OrderedDict[str, Mask] = OrderedDict()
        self._lock = threading.Lock()
        self._connection = sql.connect(memory_limit="1GB")
        self._connection.register("given", catalogue)
        chosen = ", ".join(_column(field) for field in catalogue.schema)
        self._connection.execute(f"CREATE TEMP VIEW {_TABLE} AS SELECT {chosen} FROM given")

    def mask(self, predicate: str) -> Mask:
        """[num_items] bool: which items a filter lets through; where it is NULL, it does not.

        Raises:
            DataError: for a filter that is no boolean expression over the catalogue's columns, saying what is wrong.
        """
        with self._lock:
            if predicate in self._known:
                self._known.move_to_end(predicate)
                return self._known[predicate]
            sql.check(predicate, "filter", self.columns, kind="filter", table=_TABLE)
            mask = self._evaluate(predicate)
            mask.setflags(write=False)
            self._known[predicate] = mask
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)
            return mask

    def _evaluate(self, predicate: str) -> Mask:
        # Each in a line of its own: a comment at the end of the filter comments out nothing of ours.
        query = f"SELECT coalesce(CAST((\n{predicate}\n) AS BOOLEAN), false) AS passes FROM {_TABLE}"
        try:
            found = self._connection.execute(query).fetchnumpy()["passes"]
        except duckdb.Error as error:
            raise DataError(f"filter: {_shown(predicate)} cannot be evaluated: {_reason(error)}") from None
        return np.ascontiguousarray(np.ma.getdata(found), np.bool_)


def _column(field: pa.Field) -> str:
    """SQL of a column: "" is no value, as everywhere."""
    name = '"' + field.name.replace('"', '""') + '"'
    return (
        f"nullif({name}, '') AS {name}"
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        else name
    )


def _shown(predicate: str) -> str:
    return repr(predicate if len(predicate) <= 100 else f"{predicate[:97]}...")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
