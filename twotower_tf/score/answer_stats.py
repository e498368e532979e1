"""Counts statistics of the answers for the summary, unit by unit, so that no answer is read again."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 2000  # of scores in [-1, 1]
_AT_A_TIME = 1 << 15  # answers, so that what is made of them stays in the processor's caches
_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


class AnswerStats:
    """Counts of the answers of one unit, or of several."""

    def __init__(self, items: int) -> None:
        """Begins at zero, for a catalogue of `items`."""
        self.users = self.answers = self.quarantined = 0
        self._sum, self._lowest, self._highest = 0.0, np.inf, -np.inf
        self._bins = np.zeros(_BINS, np.int64)
        self._answered = np.zeros(items, np.bool_)

    def add(self, users: int, rows: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        """Counts answers to `users` users: `rows` of the index with their `scores`, both `[answers]`."""
        self.users += users
        self.answers += len(rows)
        for start in range(0, len(rows), _AT_A_TIME):
            self._count(rows[start : start + _AT_A_TIME], scores[start : start + _AT_A_TIME])

    def _count(self, rows: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        self._answered[rows.astype(np.intp)] = True  # other integers are converted one by one
        self._sum += float(scores.sum(dtype=np.float64))
        lowest, highest = float(scores.min()), float(scores.max())
        self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
        bins = ((scores + np.float32(1)) * np.float32(_BINS / 2)).astype(np.intp)
        if lowest < -1 or highest >= 1:
            bins = bins.clip(0, _BINS - 1)
        self._bins += np.bincount(bins, minlength=_BINS)

    def note(self) -> dict[str, Any]:
        """Returns the part of the statistics that a unit's result keeps."""
        note: dict[str, Any] = {"users": self.users, "answers": self.answers}
        if self.answers:
            note["scores"] = {"sum": self._sum, "min": self._lowest, "max": self._highest, "bins": _packed(self._bins)}
            note["items"] = _packed(np.packbits(self._answered))
        return note

    def merge(self, note: Mapping[str, Any]) -> None:
        """Adds what a note keeps."""
        self.users += note["users"]
        self.answers += note["answers"]
        self.quarantined += len(note["quarantined"])
        if "scores" in note:
            scores = note["scores"]
            self._sum += scores["sum"]
            self._lowest, self._highest = min(self._lowest, scores["min"]), max(self._highest, scores["max"])
            self._bins += np.frombuffer(_unpacked(scores["bins"]), np.int64)
            bits = np.frombuffer(_unpacked(note["items"]), np.uint8)
            self._answered |= np.unpackbits(bits, count=len(self._answered)).astype(np.bool_)

    def summary(self) -> dict[str, Any]:
        """Returns quantiles of all answers' scores (to a thousandth) and the number of answered items."""
        if not self.answers:
            return {"answers": 0}
        ends = np.cumsum(self._bins)
        places = np.searchsorted(ends, np.multiply(_QUANTILES, self.answers))
        middles = np.clip((places + 0.5) * 2 / _BINS - 1, self._lowest, self._highest)
        scores = {"min": self._lowest, "mean": self._sum / self.answers, "max": self._highest}
        scores |= {f"{quantile:g}": float(middle) for quantile, middle in zip(_QUANTILES, middles, strict=True)}
        return {
            "answers": self.answers,
            "scores": {name: round(float(value), 4) for name, value in scores.items()},
            "distinct_items": int(self._answered.sum()),
        }


def _packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(array.tobytes())).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def sum_notes(notes: Sequence[Mapping[str, Any]], items: int) -> AnswerStats:
    """Sums the statistics of all units."""
    stats = AnswerStats(items)
    for note in notes:
        stats.merge(note)
    return stats
