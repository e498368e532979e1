"""A blocklist: items that nobody may get, from now on, without a new version.

A text file of item ids, one a line, read again whenever it has changed. By default it is `blocklist.txt` in the export
root, beside the versions, so that it holds for each of them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twotower_tf.errors import DataError
from twotower_tf.index.items import ItemVectors

BLOCKLIST = "blocklist.txt"

_log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
Stamp = tuple[int, int, int]


class Blocklist:
    """The blocked items of one version.

    Attributes:
        path: the file; where there is none, nothing is blocked.
        rows: [num_blocked] int64, rows of the index, ascending, as of the last `refresh`.
        strangers: lines of the file that are no item's id: items of other versions, or comments.
    """

    def __init__(self, path: Path, items: ItemVectors) -> None:
        """Reads the file.

        Raises:
            DataError: where it is there and cannot be read.
        """
        self.path = path
        self.rows: Rows = np.empty(0, np.int64)
        self.strangers = 0
        self._fault = ""
        self._items = items
        self._stamp: Stamp | None = None
        self._read(self._looked_up())

    def refresh(self) -> bool:
        """Reads the file again where it has changed; returns whether it had.

        A file that cannot be read any more leaves the last list in force, and is told in the log: nothing that was
        blocked comes back by accident.
        """
        try:
            stamp = self._looked_up()
            if stamp == self._stamp:
                return False
            self._read(stamp)
        except DataError as error:
            if str(error) != self._fault:
                _log.error("%s; the list read before stays in force", error)
            self._fault = str(error)
            return False
        self._fault = ""
        return True

    def _looked_up(self) -> Stamp | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self, stamp: Stamp | None) -> None:
        listed: list[str] = []
        if stamp is not None:
            try:
                listed = self.path.read_text(encoding="utf-8-sig").split("\n")  # some editors begin with a mark
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{self.path}: cannot be read: {error}; a blocklist is UTF-8 text, one item id a line"
                ) from None
        ids = {line.removesuffix("\r") for line in listed} - {""}
        found = [row for item in ids if (row := self._items.row(item)) is not None]
        self.rows, self.strangers, self._stamp = np.array(sorted(found), np.int64), len(ids) - len(found), stamp
