"""Item ids and their vectors in one object, checked once, so that neither ever travels without the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.characters import LINE_BREAKS
from twotower_tf.errors import DataError

NORM_TOLERANCE = 1e-3
_NAMED = 3  # offending ids that an error lists

Ids = npt.NDArray[Any]


class ItemVectors:
    """Items in row order: ids and unit vectors.

    Attributes:
        ids: [num_items] object (text), distinct.
        vectors: [num_items, vector_dim] float32, unit length, C order; may be a memory map.
    """

    def __init__(self, ids: Sequence[str] | Ids, vectors: npt.ArrayLike) -> None:
        """Checks and keeps the items.

        Args:
            ids: [num_items] text, distinct, without tab, line break or control of the file formats they enter.
            vectors: [num_items, vector_dim] float32, each of unit length within 1e-3.

        Raises:
            DataError: naming the first offending item ids.
        """
        self.vectors: npt.NDArray[np.float32] = np.ascontiguousarray(vectors, dtype=np.float32)
        self.ids: Ids = np.empty(len(ids), dtype=object)
        self.ids[:] = list(ids)
        if self.vectors.ndim != 2 or not self.vectors.shape[1]:
            raise DataError(f"item vectors: invalid shape {self.vectors.shape} (expected [items, vector_dim])")
        if len(self.ids) != len(self.vectors):
            raise DataError(f"item vectors: invalid number of ids {len(self.ids)} (expected {len(self.vectors)})")
        if not len(self.ids):
            raise DataError("item vectors: invalid empty table (expected at least one item)")
        _check_ids(self.ids)
        _check_lengths(self.ids, self.vectors)

    @classmethod
    def trusted(cls, ids: Ids, vectors: npt.NDArray[np.float32]) -> ItemVectors:
        """Takes items that were checked before they were written and whose files are unchanged."""
        items = cls.__new__(cls)
        items.ids, items.vectors = ids, vectors
        return items

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """A hexadecimal SHA-256 of ids and vectors in row order."""
        return fingerprint(self.ids, self.vectors)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def row(self, item_id: str) -> int | None:
        """Returns the row of an item, or None for an unknown item."""
        return self._rows.get(item_id)


def duplicate_vectors(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Finds the rows of vectors [num_items, vector_dim] float32 that equal an earlier row, and the first equal row."""
    factors = np.random.default_rng(0).integers(0, 2**64, vectors.shape[1], np.uint64) | np.uint64(1)
    keys = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), 1 << 16):
        part = np.ascontiguousarray(vectors[start : start + (1 << 16)]) + np.float32(0)  # -0 is 0
        keys[start : start + (1 << 16)] = part.view(np.uint32).astype(np.uint64) @ factors
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    rows = np.flatnonzero(first[place] != np.arange(len(keys)))
    rows = rows[(vectors[rows] == vectors[first[place[rows]]]).all(axis=1)]
    return rows, first[place[rows]]


def fingerprint(ids: Sequence[str] | Ids, vectors: npt.NDArray[np.float32]) -> str:
    """Computes the hexadecimal SHA-256 of item ids and vectors [num_items, vector_dim] float32 in row order."""
    digest = hashlib.sha256(f"{len(ids)} {vectors.shape[1]}\n".encode())
    digest.update("\n".join(ids).encode())
    for start in range(0, len(vectors), 1 << 16):
        digest.update(np.ascontiguousarray(vectors[start : start + (1 << 16)], dtype="<f4").data)
    return digest.hexdigest()


def write_ids(path: Path, ids: Ids) -> None:
    """Writes one id a line, UTF-8."""
    path.write_bytes("".join(f"{item_id}\n" for item_id in ids).encode())


def read_ids(path: Path) -> Ids:
    """Reads what `write_ids` wrote. Only a line feed ends an id."""
    lines = path.read_bytes().decode().split("\n")[:-1]
    ids = np.empty(len(lines), dtype=object)
    ids[:] = lines
    return ids


def _check_ids(ids: Ids) -> None:
    strangers = [item_id for item_id in ids if not isinstance(item_id, str)]
    _refuse(strangers, "are not text", "item ids are text everywhere; write 3 as '3'")
    _refuse([item_id for item_id in ids if not item_id], "are empty", "every item needs an id")
    text = "\n".join(ids)
    if text.count("\n") >= len(ids) or "\t" in text or "\r" in text or "\0" in text:
        odd = [item_id for item_id in ids if any(mark in item_id for mark in LINE_BREAKS)]
        _refuse(odd, "hold a tab, line break or NUL", "item_embeddings.tsv has one item a line; rename them")
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse([item_id for item_id in ids if not _encodable(item_id)], "are not valid Unicode", "rename them")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = [item_id for item_id in ids if item_id in seen or seen.add(item_id)]  # type: ignore[func-returns-value]
        _refuse(twice, "are there twice", "expected one vector per item")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_lengths(ids: Ids, vectors: npt.NDArray[np.float32]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    _refuse(ids[~np.isfinite(lengths)], "have a vector with NaN or infinity", "the model diverged; train it again")
    _refuse(ids[lengths == 0.0], "have a vector of length zero", "it has no direction; leave the item out")
    odd = np.abs(lengths - 1.0) > NORM_TOLERANCE
    if odd.any():
        what = f"have a vector that is not of unit length (the first {lengths[odd][0]:.4g})"
        _refuse(ids[odd], what, f"expected 1 within {NORM_TOLERANCE}; normalize it")


def _refuse(offenders: Sequence[Any] | Ids, what: str, remedy: str) -> None:
    if len(offenders):
        named = ", ".join(repr(item_id) for item_id in offenders[:_NAMED])
        more = ", ..." if len(offenders) > _NAMED else ""
        raise DataError(f"item vectors: {len(offenders)} item(s) {what}: {named}{more}; {remedy}")
