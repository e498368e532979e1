"""Tunes the settings of an approximate search by how many items it fetches.

Recall falls with the rank: a search tuned for the 100 nearest items finds few of those from rank 400 to 500. Just these
are the answers of a user whose 400 nearest items are excluded. So each level is tuned for its own last ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.scann import tuning

FETCHES = (100, 200, 500, 1_000, 2_000)  # items; for more, every item is scored
QUERIES = 256  # that a level is tuned with

Floats = npt.NDArray[np.float32]
Ask = Callable[[Floats, int, int, int], Floats]  # (queries, fetch, leaves_to_search, reorder) -> scores


@dataclass(frozen=True)
class Level:
    """How up to `fetch` items are searched.

    Attributes:
        fetch: items.
        leaves_to_search: partitions searched for each query.
        reorder: candidates of the quantized search whose score is computed exactly.
    """

    fetch: int
    leaves_to_search: int
    reorder: int


def tune(
    ask: Ask,
    exact: ExactSearcher,
    queries: Floats,
    first: Level,
    leaves: int,
    target: float,
    pays: Callable[[Level], bool],
) -> list[Level]:
    """Tunes the levels above the first, each so that the k answers after its other ones have the target recall.

    The first level is tuned with k items; `ask` searches with a setting, and a level `pays` where it costs less than
    scoring every item.

    Returns:
        The levels, up to the last one that pays and reaches the target.
    """
    k, queries = first.fetch, tuning.sample(queries, QUERIES)
    fetches = [fetch for fetch in FETCHES if k < fetch < len(exact.items) and pays(Level(fetch, 1, fetch))]
    if not fetches:
        return []
    truth = exact.search(queries, fetches[-1]).scores
    tuned, before = [], first
    for fetch in fetches:
        found = tuning.choose_cheapest(
            lambda leaves_to_search, reorder, fetch=fetch: ask(queries, fetch, leaves_to_search, reorder),  # type: ignore[misc]
            truth[:, :fetch],
            len(exact.items),
            leaves,
            target,
            excluded=fetch - k,
            at_least=before.leaves_to_search,
        )
        level = Level(fetch, found.leaves_to_search, found.reorder) if found else None
        if level is None or not pays(level):
            break
        tuned.append(level)
        before = level
    return tuned


def describe_level(scores: Floats, truth: Floats, k: int) -> dict[str, Any]:
    """Returns what the manifest states of a level's recall, from scores [num_queries, fetch] found and of exact search.

    Returns:
        {"k": fetch, "recall": recall@fetch, "excluded": fetch - k, "recall_excluded": that of the k answers after the
        excluded ones, "queries"}.
    """
    excluded = truth.shape[1] - k
    return {
        "k": truth.shape[1],
        "recall": _mean(tuning.compute_recall(scores, truth)),
        "excluded": excluded,
        "recall_excluded": _mean(tuning.compute_recall(scores, truth, excluded)),
        "queries": len(truth),
    }


def _mean(recalls: Floats) -> float:
    return round(float(recalls.mean(dtype=np.float64)), 6)
