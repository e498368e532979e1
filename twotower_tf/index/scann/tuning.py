"""Finds how much of an approximate index must be searched to reach a recall, and what each choice costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLES = 1_000  # queries measured at most
_REORDER_STEPS = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 11, 16, 23, 32)  # candidates re-scored exactly, in units of k
_DEARER = 1.25  # a setting this much dearer than the cheapest ends the search: noise alone does not
_REPEATS = 2
_HOPELESS = 0.05  # of what is missing, gained by twice the leaves
_SAME_SCORE = 1e-6  # float32 rounding of a cosine

Floats = npt.NDArray[np.float32]
Search = Callable[[int, int], Floats]  # (leaves_to_search, reorder) -> scores of the sample, -inf where missing


@dataclass(frozen=True)
class Tuned:
    """What a tuning found.

    Attributes:
        leaves_to_search: partitions searched for each query.
        reorder: candidates whose score is computed exactly.
        recall: measured recall@k over all sample queries.
        microseconds: of one core, for one query of many.
        curve: every setting tried: leaves_to_search, reorder, recall, microseconds.
    """

    leaves_to_search: int
    reorder: int
    recall: float
    microseconds: float
    curve: list[dict[str, Any]]


def compute_recall(scores: Floats, truth: Floats, excluded: int = 0) -> Floats:
    """Computes the recall of each query; an answer is right if it scores as high as the k-th true one.

    Comparing scores, not ids, does not punish an answer that is exactly as near as the one expected.

    Args:
        scores: [num_queries, k] float32, -inf where an answer is missing.
        truth: [num_queries, k] float32, of exact search, descending.
        excluded: number of nearest items that no answer counts for: the recall is that of the others.

    Returns:
        [num_queries] float32 in [0, 1].
    """
    found = np.count_nonzero(scores >= truth[:, -1:] - _SAME_SCORE, axis=1)
    if excluded:
        nearest = np.count_nonzero(scores >= truth[:, excluded - 1, None] - _SAME_SCORE, axis=1)
        found = found - np.minimum(nearest, excluded)
    share: Floats = (found / (truth.shape[1] - excluded)).astype(np.float32)
    return share


def sample(users: Floats, count: int) -> Floats:
    """Samples at most `count` of the users [num_users, vector_dim], evenly spaced: a count gives one sample."""
    return users[np.linspace(0, len(users) - 1, min(count, len(users))).astype(np.int64)]


def tune(search: Search, truth: Floats, size: int, leaves: int, target: float) -> Tuned:
    """Chooses as `choose_cheapest`; where nothing less reaches the target, everything is searched and re-scored."""
    found = choose_cheapest(search, truth, size, leaves, target)
    if found is None:
        curve = _Curve(search, truth, target, 0)
        found = curve.tuned(curve.measure(leaves, size))
    return found


def choose_cheapest(
    search: Search, truth: Floats, size: int, leaves: int, target: float, excluded: int = 0, at_least: int = 1
) -> Tuned | None:
    """Chooses the cheapest setting whose recall reaches the target beyond the luck of the sample.

    For a growing number of re-scored candidates the fewest leaves that reach the target are found, doubling them and
    then bisecting (recall grows with both), until more candidates only make it dearer.

    `truth` has the scores [num_queries, k] of exact search; at least `at_least` of the partitions are searched.

    Returns:
        The setting; None where none reaches the target.
    """
    curve = _Curve(search, truth, target, excluded)
    lowest = np.inf
    k = truth.shape[1]
    for reorder in sorted({min(size, round(step * k)) for step in _REORDER_STEPS}):
        found = _fewest_leaves(curve, reorder, leaves, min(at_least, leaves))
        if found is None:
            continue
        cost = curve.points[found, reorder]["microseconds"]
        if cost > _DEARER * lowest:
            break
        lowest = min(lowest, cost)
    reached = [point for point in curve.points.values() if point["surely"] >= target]
    return curve.tuned(min(reached, key=lambda point: float(point["microseconds"]))) if reached else None


def _fewest_leaves(curve: _Curve, reorder: int, leaves: int, at_least: int) -> int | None:
    """Finds the fewest leaves that reach the target, within a sixteenth; None if it is out of reach."""
    low, high, before = at_least - 1, at_least, 0.0
    while not curve.reaches(high, reorder):
        recall = curve.points[high, reorder]["surely"]
        hopeless = recall - before < _HOPELESS * (curve.target - recall)  # quantization limits it, not leaves
        if high == leaves or (before and hopeless):
            return None
        low, high, before = high, min(leaves, 2 * high), recall
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if curve.reaches(middle, reorder) else (middle, high)
    return high


class _Curve:
    """The settings measured so far, by (leaves_to_search, reorder)."""

    def __init__(self, search: Search, truth: Floats, target: float, excluded: int) -> None:
        self.points: dict[tuple[int, int], dict[str, Any]] = {}
        self.target = target
        self._search = search
        self._truth = truth
        self._excluded = excluded

    def tuned(self, point: dict[str, Any]) -> Tuned:
        """Chooses one of the settings."""
        ordered = sorted(self.points.values(), key=lambda point: (point["reorder"], point["leaves_to_search"]))
        shown = [{name: value for name, value in each.items() if name != "surely"} for each in ordered]
        return Tuned(point["leaves_to_search"], point["reorder"], point["recall"], point["microseconds"], shown)

    def reaches(self, leaves_to_search: int, reorder: int) -> bool:
        return bool(self.measure(leaves_to_search, reorder)["surely"] >= self.target)

    def measure(self, leaves_to_search: int, reorder: int) -> dict[str, Any]:
        key = (leaves_to_search, reorder)
        if key not in self.points:
            scores, seconds = self._timed(leaves_to_search, reorder)
            recalls = compute_recall(scores, self._truth, self._excluded).astype(np.float64)
            mean, error = recalls.mean(), recalls.std() / np.sqrt(len(recalls))
            if mean - error >= self.target:  # a setting that may be chosen is timed with care
                seconds = min(seconds, *(self._timed(leaves_to_search, reorder)[1] for _ in range(_REPEATS)))
            self.points[key] = {
                "leaves_to_search": leaves_to_search,
                "reorder": reorder,
                "recall": round(float(mean), 6),
                "microseconds": round(1e6 * seconds / len(recalls), 2),
                "surely": float(mean - error),
            }
        return self.points[key]

    def _timed(self, leaves_to_search: int, reorder: int) -> tuple[Floats, float]:
        """Returns scores, and seconds of the processor: other work on the machine must not choose the setting."""
        started = time.process_time()
        scores = self._search(leaves_to_search, reorder)
        return scores, time.process_time() - started
