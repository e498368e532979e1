"""Looks up the names of a bundle's items, and items by their names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.errors import DataError

_LISTED = 5  # items in an error


class ItemNames:
    """The names of a bundle's items; the catalogue is read when the first one is wanted."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @cached_property
    def _table(self) -> pa.Table:
        return self._bundle.columns(["item_id", "item_name"]).combine_chunks()

    def of_rows(self, rows: npt.NDArray[Any] | pa.Array) -> list[str]:
        """Returns the names of items by their rows of the index; "" for an item without a name."""
        return [name or "" for name in self._table["item_name"].take(pa.array(rows)).to_pylist()]

    def of_ids(self, ids: Sequence[str]) -> list[str]:
        """Returns the names of items by their ids; "" for an item without a name. Looks through all items."""
        return self.of_rows(pc.index_in(pa.array(ids, pa.string()), value_set=self._table["item_id"].cast(pa.string())))

    def find_row(self, name: str) -> int:
        """Finds the row of the one item with a name; letters' case counts only where several items differ by it.

        Raises:
            DataError: where no item has this name, or several have.
        """
        names = self._table["item_name"].cast(pa.string())
        for same in (pc.equal(names, name), pc.equal(pc.utf8_lower(names), name.lower())):
            rows = pc.indices_nonzero(pc.fill_null(same, False)).to_pylist()
            if len(rows) == 1:
                return int(rows[0])
            if rows:
                raise DataError(f"item {name!r}: {len(rows):,} items have this name: {self._list(rows)}; give the id")
        rows = pc.indices_nonzero(pc.fill_null(pc.match_substring(names, name, ignore_case=True), False)).to_pylist()
        near = f"; names with it: {self._list(rows)}" if rows else ""
        raise DataError(
            f"item {name!r}: not the id or the name of one of the {self._bundle.manifest['items']} items of "
            f"{self._bundle.path}{near}"
        )

    def _list(self, rows: Sequence[int]) -> str:
        shown = self._table.take(pa.array(rows[:_LISTED])).to_pylist()
        more = f", and {len(rows) - _LISTED:,} more" if len(rows) > _LISTED else ""
        return ", ".join(f"{each['item_id']} ({each['item_name']!r})" for each in shown) + more
