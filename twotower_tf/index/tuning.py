"""Finds how much of an approximate index must be searched to reach a recall, and what each choice costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLES = 1_000  # queries measured at most
_REORDER_STEPS = (1, 2, 4, 8, 16, 32)  # candidates re-scored exactly, in units of k
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
        curve: every setting tried: leaves_to_search, reorder, recall, queries_per_second.
    """

    leaves_to_search: int
    reorder: int
    recall: float
    curve: list[dict[str, Any]]


def recall_of(scores: Floats, truth: Floats) -> Floats:
    """The recall of each query, counting an answer as right where it scores as high as the k-th true one.

    Comparing scores, not ids, does not punish an answer that is exactly as near as the one expected.

    Args:
        scores: [num_queries, k] float32, -inf where an answer is missing.
        truth: [num_queries, k] float32, of exact search, descending.

    Returns:
        [num_queries] float32 in [0, 1].
    """
    found: Floats = (scores >= truth[:, -1:] - _SAME_SCORE).mean(axis=1, dtype=np.float32)
    return found


def tune(search: Search, truth: Floats, size: int, leaves: int, target: float) -> Tuned:
    """Chooses the fastest setting whose recall reaches the target on both halves of the sample.

    For a growing number of re-scored candidates the fewest leaves that reach the target are found by bisection (recall
    grows with both), until more candidates make it slower. Asking both halves keeps the luck of one sample out.

    Args:
        search: searches the sample with a setting.
        truth: [num_queries, k] scores of exact search.
        size: number of items.
        leaves: number of partitions.
        target: recall@k to reach, in (0, 1].
    """
    k = truth.shape[1]
    fastest = 0.0
    curve: dict[tuple[int, int], dict[str, Any]] = {}

    def reaches(leaves_to_search: int, reorder: int) -> bool:
        key = (leaves_to_search, reorder)
        if key not in curve:
            curve[key] = _measure(search, truth, *key)
        return bool(curve[key]["worse_half"] >= target)

    for step in _REORDER_STEPS:
        reorder = min(size, step * k)
        if not reaches(leaves, reorder):
            continue
        low, high = 0, leaves  # low misses the target, high reaches it
        while high - low > max(1, high // 16):
            middle = max(low + 1, int(np.sqrt(max(low, 1) * high)))
            if middle >= high:
                break
            low, high = (low, middle) if reaches(middle, reorder) else (middle, high)
        speed = curve[high, reorder]["queries_per_second"]
        if reorder == size or speed < fastest:
            break
        fastest = speed
    reached = [point for point in curve.values() if point["worse_half"] >= target]
    if not reached:  # everything is searched and re-scored: exact, but for rounding
        reaches(leaves, size)
        reached = [curve[leaves, size]]
    best = max(reached, key=lambda point: point["queries_per_second"])
    ordered = sorted(curve.values(), key=lambda point: (point["reorder"], point["leaves_to_search"]))
    shown = [{name: value for name, value in point.items() if name != "worse_half"} for point in ordered]
    return Tuned(best["leaves_to_search"], best["reorder"], best["recall"], shown)


def _measure(search: Search, truth: Floats, leaves_to_search: int, reorder: int) -> dict[str, Any]:
    started = time.perf_counter()
    scores = search(leaves_to_search, reorder)
    seconds = max(time.perf_counter() - started, 1e-9)
    recalls = recall_of(scores, truth)
    halves = [half.mean() for half in (recalls[::2], recalls[1::2]) if len(half)]
    return {
        "leaves_to_search": leaves_to_search,
        "reorder": reorder,
        "recall": round(float(recalls.mean(dtype=np.float64)), 6),
        "queries_per_second": round(len(truth) / seconds, 1),
        "worse_half": float(min(halves)),
    }
