"""The blocklist: items that no user gets, from now on, without a new version.

A text file of item ids, one a line, read again whenever it has changed. By default it is `blocklist.txt` in the export
root, next to the versions, so that it holds for each of them.
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from twotower_tf import characters
from twotower_tf.errors import DataError
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.prepare.text_forms import apply_form

BLOCKLIST = "blocklist.txt"

_log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
Stamp = tuple[int, int, int, int]


class Blocklist:
    """The blocked items of one version.

    Attributes:
        path: the file; as long as there never was one, nothing is blocked.
        rows: [num_blocked] int64, rows of the index, ascending, as of the last `refresh`.
        strangers: lines of the file that are not the id of an item: ids of other versions, or comments.
    """

    def __init__(self, path: Path, items: ItemVectors, form: str = "") -> None:
        """Reads the file; ids write whole numbers and booleans in `form`, see `prepare.text_forms`.

        Raises:
            DataError: where it exists and cannot be read.
        """
        self.path = path
        self.rows: Rows = np.empty(0, np.int64)
        self.strangers = 0
        self._items = items
        self._form = form
        self._fault = ""
        self._stamp: Stamp | None = None  # of the content that was read last, whether it was a list or not
        if (stamp := self._look_up()) is not None:
            self._read(stamp)

    def refresh(self) -> bool:
        """Reads the file again if it has changed; returns whether `rows` are new.

        A file that has vanished or cannot be read any more leaves the last list in force, so that nothing that was
        blocked comes back by accident. That is logged once per change of the file.
        """
        try:
            stamp = self._look_up()
            if stamp is None and self._stamp is not None:
                raise DataError(f"{self.path}: no such file any more; an empty file unblocks all items")
            if stamp is None or stamp == self._stamp:
                self._fault = ""
                return False
            self._read(stamp)
        except DataError as error:
            if str(error) != self._fault:
                _log.error("%s; the list read before, of %d items, stays in force", error, len(self.rows))
            self._fault = str(error)
            return False
        self._fault = ""
        _log.info("%s: read again; %d items are blocked", self.path, len(self.rows))
        return True

    def _look_up(self) -> Stamp | None:
        """Returns what changes when the file does; None without a file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would block every request
            raise DataError(f"{self.path}: cannot be read: not a regular file")
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _read(self, stamp: Stamp) -> None:
        try:
            content = self.path.read_bytes()
            self._stamp = stamp
            ids = {apply_form(item, self._form) for item in characters.split_ids(content)}
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{self.path}: cannot be read: {error}; a blocklist is UTF-8 text, one item id a line"
            ) from None
        found = [row for item in ids if (row := self._items.row(item)) is not None]
        self.rows, self.strangers = np.array(sorted(found), np.int64), len(ids) - len(found)
