"""Writes encoded arrays as `.npy` files, row block by row block. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from twotower_tf.features.layout import NO_VALUE
from twotower_tf.tables import parquet_parts

SCHEMA_VERSION = 3  # of `encoded/`: 2 files are named by keys of encoded tensors, 3 versions of the items
_COPY_ROWS = 1 << 18


class ArrayWriter:
    """Writes one array `[rows, width]`; a block that is wider widens what was written, padded with -1.

    The file is written and not mapped, so that its pages do not count as the process's memory.
    """

    def __init__(self, path: Path, rows: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._rows = rows
        self._file: IO[bytes] | None = None
        self._width = 0
        self._done = 0

    def append(self, block: np.ndarray) -> None:
        """Adds rows `[n, width]`, of one dtype for the whole array."""
        if self._file is None or block.shape[1] > self._width:
            self._widen(block)
        assert self._file is not None
        self._file.write(_padded(block, self._width).data)
        self._done += len(block)

    def _widen(self, block: np.ndarray) -> None:
        before, narrow = self._path.with_suffix(".narrow"), self._width
        self.close()
        if self._done:
            self._path.replace(before)
        self._width = block.shape[1]
        self._file = parquet_parts.open_array(self._path, block.dtype, (self._rows, self._width))
        if not self._done:
            return
        with before.open("rb") as old:
            np.lib.format.read_magic(old)
            np.lib.format.read_array_header_1_0(old)
            for start in range(0, self._done, _COPY_ROWS):
                rows = min(_COPY_ROWS, self._done - start)
                values = np.fromfile(old, block.dtype, rows * narrow).reshape(rows, narrow)
                self._file.write(_padded(values, self._width).data)
        before.unlink()

    def close(self) -> None:
        """Finishes the file."""
        if self._file is not None:
            self._file.close()


def _padded(block: np.ndarray, width: int) -> np.ndarray:
    if block.shape[1] < width:
        block = np.pad(block, ((0, 0), (0, width - block.shape[1])), constant_values=NO_VALUE)
    return np.ascontiguousarray(block)
