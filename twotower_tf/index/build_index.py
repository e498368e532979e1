"""Builds the index that a configuration asks for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from twotower_tf.config import IndexConfig
from twotower_tf.index import index_memory, topk
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import Ids, ItemVectors, twins
from twotower_tf.index.scann.scann_searcher import MIN_ITEMS, ScannSearcher
from twotower_tf.index.scann.tuning import SAMPLES
from twotower_tf.index.searcher import Searcher


def build(
    ids: Sequence[str] | Ids,
    vectors: npt.ArrayLike,
    index: IndexConfig,
    sample_queries: npt.ArrayLike | None = None,
    threads: int = 0,
    tell: Callable[[str], object] = lambda line: None,
) -> Searcher:
    """Checks the items and builds an index over them.

    Args:
        ids: [num_items] text, distinct.
        vectors: [num_items, vector_dim] float32, unit length.
        index: kind and target. "auto" is exact up to `exact_below` items, and where ScaNN is not installed.
        sample_queries: [num_queries, vector_dim] float32, real user vectors that recall is measured with; without
            any, item vectors stand in for them.
        threads: for building and answering; 0 is one per core.
        tell: told, a line each, the memory that the index takes, before it does, and of items with equal vectors.

    Raises:
        DataError: for items that no index can hold, by id.
        ConfigError: where ScaNN is asked for by name and cannot be had.
    """
    items = ItemVectors(ids, vectors)
    kind = chosen_kind(len(items), index)
    tell(str(index_memory.estimate(len(items), items.dim, kind, topk.available_threads(threads))))
    _tell_twins(items, tell)
    if kind == "exact":
        return ExactSearcher(items, threads)
    queries = np.empty((0, items.dim), np.float32) if sample_queries is None else np.asarray(sample_queries, np.float32)
    if not len(queries):
        every = max(1, len(items) // SAMPLES)
        queries = items.vectors[::every]
    return ScannSearcher.build(items, index.k, index.target_recall, queries, threads)


def _tell_twins(items: ItemVectors, tell: Callable[[str], object]) -> None:
    """Equal vectors are no fault of an index, but say that the model does not tell these items apart."""
    rows, firsts = twins(items.vectors)
    if len(rows):
        pairs = [f"{items.ids[row]!r} of {items.ids[first]!r}" for row, first in zip(rows[:3], firsts[:3], strict=True)]
        more = ", ..." if len(rows) > len(pairs) else ""
        tell(f"index: {len(rows):,} items have the vector of another item: {', '.join(pairs)}{more}")


def chosen_kind(size: int, index: IndexConfig) -> Literal["exact", "scann"]:
    """The kind of index that a catalogue of `size` items gets."""
    if index.kind != "auto":
        return index.kind
    pays = size > max(index.exact_below, MIN_ITEMS - 1) and importlib.util.find_spec("scann") is not None
    return "scann" if pays else "exact"
