"""Chooses a ScaNN index's training parameters by trials on a sample of the items."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.index.scann import scann_build, tuning
from twotower_tf.index.scann.scann_build import Shape

_SAMPLE = 100_000  # items tried with; for no more than these, a search is so cheap that trying costs more than it saves
_LEAVES = (2.0, 1.0, 4.0)  # partitions, in units of the square root of the number of items
_THRESHOLDS = (0.2, 0.3, 0.4)
_DIMENSIONS = (1, 2)
_SEED = 17
_CLEARLY = 0.95  # of the cost: what a less usual choice must save

Floats = npt.NDArray[np.float32]


def choose(vectors: Floats, queries: Floats, k: int, target: float, threads: int) -> tuple[Shape, list[dict[str, Any]]]:
    """Chooses the shape that reaches the target at the least cost, one parameter after the other.

    Vectors [num_items, vector_dim] float32 were checked; queries [num_queries, vector_dim] are like those to come.

    Returns:
        The shape for all items, and what was tried: each shape with the cost and setting found, on the sample; up to
        100,000 items the usual shape, untried.
    """
    size, factor = len(vectors), _LEAVES[0]
    best = Shape(_leaves(factor, min(size, _SAMPLE)), _THRESHOLDS[0], _DIMENSIONS[0])
    if size <= _SAMPLE:
        return best, []
    rows = np.sort(np.random.default_rng(_SEED).choice(size, _SAMPLE, replace=False))
    vectors = np.ascontiguousarray(vectors[rows])
    trial = _Trial(vectors, queries, min(k, len(vectors)), target, threads)
    for other in _LEAVES[1:]:
        tried = trial.better(replace(best, leaves=_leaves(other, len(vectors))), best)
        best, factor = (tried, other) if tried is not best else (best, factor)
    for threshold in _THRESHOLDS[1:]:
        best = trial.better(replace(best, anisotropic_threshold=threshold), best)
    for dimensions in _DIMENSIONS[1:]:
        best = trial.better(replace(best, dimensions_per_block=dimensions), best)
    return replace(best, leaves=_leaves(factor, size)), list(trial.tried.values())


class _Trial:
    """Indexes of different shapes over the same sample."""

    def __init__(self, vectors: Floats, queries: Floats, k: int, target: float, threads: int) -> None:
        self.tried: dict[Shape, dict[str, Any]] = {}
        self._vectors, self._queries, self._k = vectors, queries, k
        self._target, self._threads = target, threads
        sample = ItemVectors.trusted(np.empty(len(vectors), object), vectors)
        self._truth = ExactSearcher(sample, threads).search(queries, k).scores

    def better(self, candidate: Shape, best: Shape) -> Shape:
        """Returns the candidate if it is clearly cheaper, else the best so far."""
        return candidate if self.cost(candidate) < _CLEARLY * self.cost(best) else best

    def cost(self, shape: Shape) -> float:
        """Microseconds of one core for one query, at the target recall."""
        if shape not in self.tried:
            built = scann_build.build(self._vectors, self._k, shape, self._threads)
            found = tuning.tune(
                lambda leaves, reorder: scann_build.search_batch(
                    built, self._queries, self._k, leaves, reorder, self._threads
                )[1],
                self._truth,
                len(self._vectors),
                shape.leaves,
                self._target,
            )
            self.tried[shape] = {
                "items": len(self._vectors),
                **asdict(shape),
                "leaves_to_search": found.leaves_to_search,
                "reorder": found.reorder,
                "recall": found.recall,
                "microseconds": found.microseconds,
            }
        return float(self.tried[shape]["microseconds"])


def _leaves(factor: float, size: int) -> int:
    return max(1, min(size, round(factor * float(np.sqrt(size)))))
