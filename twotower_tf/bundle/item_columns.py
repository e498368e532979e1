"""Reads columns of a bundle's items when they are first wanted: most of a catalogue is text that no filter uses.

Used in place of `Bundle.items` where few columns are needed; may be used from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pyarrow as pa

from twotower_tf.bundle.bundle import Bundle


class ItemColumns:
    """The columns of one version's items, in the index's row order."""

    def __init__(self, bundle: Bundle) -> None:
        """Reads the schema.

        Raises:
            ArtifactError: where the catalogue is missing or damaged.
        """
        self.schema = bundle.item_schema
        self.num_rows: int = bundle.manifest["items"]
        self._bundle = bundle
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._lock = threading.Lock()

    def select(self, names: Sequence[str]) -> pa.Table:
        """Returns columns, in the order of `names`.

        Raises:
            ArtifactError: as `Bundle.columns` says.
        """
        with self._lock:
            missing = [name for name in names if name not in self._columns]
            if missing:
                found = self._bundle.columns(missing)
                self._columns |= {name: found[name] for name in missing}
            return pa.table({name: self._columns[name] for name in names})
