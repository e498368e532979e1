"""Which items of a bundle a request may get: a filter of its own, and the operator's blocklist."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower_tf.index.allowed import Allowed
from twotower_tf.index.blocklist import Blocklist
from twotower_tf.index.filters import Filters
from twotower_tf.index.items import ItemVectors

_CACHED = 16  # filters whose items' vectors may be kept beside each other


class Gate:
    """Decides for one version; may be used from several threads.

    Attributes:
        blocklist: of the export root, or given.
    """

    def __init__(self, catalogue: Callable[[], pa.Table], items: ItemVectors, blocklist: Path) -> None:
        """Reads the blocklist.

        Args:
            catalogue: gives the bundle's items, in row order; asked with the first filter, for it may be large.
            items: the same, with vectors.
            blocklist: a file of item ids, which need not exist.

        Raises:
            DataError: where the blocklist cannot be read.
        """
        self._catalogue = catalogue
        self.blocklist = Blocklist(blocklist, items)
        self._size = len(items)
        self._known: OrderedDict[str, Allowed] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def _filters(self) -> Filters:
        return Filters(self._catalogue())

    def allowed(self, predicate: str = "") -> Allowed | None:
        """The items that pass a filter and are not blocked at this moment; None where all are allowed.

        Raises:
            DataError: for a filter that cannot be used.
        """
        with self._lock:
            if self.blocklist.refresh():
                self._known.clear()
            if not predicate and not len(self.blocklist.rows):
                return None
            if predicate not in self._known:
                mask = self._filters.mask(predicate).copy() if predicate else np.ones(self._size, np.bool_)
                mask[self.blocklist.rows] = False
                self._known[predicate] = Allowed(mask)
                if len(self._known) > _CACHED:
                    self._known.popitem(last=False)
            self._known.move_to_end(predicate)
            return self._known[predicate]
