"""Computes the eligible items of a request from its own filter and the operator's blocklist."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from twotower_tf.index.eligible import Eligible
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.retrieval.blocklist import Blocklist
from twotower_tf.retrieval.filters import Catalogue, Filters, Mask
from twotower_tf.retrieval.limits import FILTER_SECONDS

_CACHED = 16  # filters whose items' vectors may be kept at the same time


class ItemFilter:
    """Decides for one version; may be used from several threads."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        items: ItemVectors,
        blocklist: Path,
        form: str = "",
        seconds: float = FILTER_SECONDS,
    ) -> None:
        """Reads the blocklist.

        `catalogue`, called at the first filter, gives the items in row order. The blocklist, a file of item ids that
        write numbers and booleans in `form` (see `prepare.text_forms`), need not exist. A filter may take so many
        seconds.

        Raises:
            DataError: where the blocklist cannot be read.
        """
        self.blocklist = Blocklist(blocklist, items, form)
        self.seconds = seconds
        self._catalogue = catalogue
        self._size = len(items)
        self._filters: Filters | None = None
        self._reading = threading.Lock()  # held while the catalogue is read
        self._known: OrderedDict[str, Eligible] = OrderedDict()  # by filter, without what is blocked now
        self._lock = threading.Lock()  # of the blocklist and what is known; never held while a filter is evaluated

    def allowed(self, predicate: str = "") -> Eligible | None:
        """Returns the items that pass a filter and are not blocked at this moment; None if all are allowed.

        Raises:
            DataError: for a filter that cannot be used.
        """
        with self._lock:
            if self.blocklist.refresh():
                self._known.clear()
            if not predicate and not len(self.blocklist.rows):
                return None
            if predicate in self._known:
                self._known.move_to_end(predicate)
                return self._known[predicate]
        passing = self._passing(predicate)
        with self._lock:
            if predicate not in self._known:  # another request may have been faster
                mask = passing.copy()
                mask[self.blocklist.rows] = False
                self._known[predicate] = Eligible(mask)
                if len(self._known) > _CACHED:
                    self._known.popitem(last=False)
            return self._known[predicate]

    def _passing(self, predicate: str) -> Mask:
        """Returns which items pass a filter, blocked or not, [num_items] bool."""
        if not predicate:
            return np.ones(self._size, np.bool_)
        with self._reading:
            if self._filters is None:
                self._filters = Filters(self._catalogue(), self.seconds)
        return self._filters.mask(predicate)
