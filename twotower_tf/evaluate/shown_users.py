"""Collects a few users with their history and their recommendations by name, for people to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf.evaluate.protocol import Queries
from twotower_tf.prepare.prepared import Prepared

USERS, RECOMMENDED, HISTORY, HELD_OUT = 4, 10, 8, 8
_DIGITS = 4

Vectors = npt.NDArray[np.float32]


def collect_users(
    prepared: Prepared, queries: Queries, split: str, items: Vectors, users: Vectors
) -> list[dict[str, Any]]:
    """Collects users evenly from the queries: what they had, what is held out and, by unit vectors, the best items.

    Returns:
        `{"user", "history", "held_out", "recommended"}` per user. Items are `{"id", "name"}`: the latest 8 positives
        before the split, newest first; up to 8 that are held out; the best 10, with `score` and `held_out`.
    """
    which = "seen" if split == "test" else "train"
    sequence, starts = prepared.sequence(which), prepared.sequence_users(which)
    catalogue, ids = prepared.items(["item_id", "item_name"]), prepared.user_ids()
    found = []
    for query in np.unique(np.linspace(0, len(queries) - 1, min(USERS, len(queries))).astype(np.int64)):
        user = int(queries.user_rows[query])
        history = np.asarray(sequence[starts[user] : starts[user + 1]])[::-1][:HISTORY]
        _, relevant = queries.relevant.block(query, query + 1)
        scores = items @ users[query]
        scores[queries.seen.block(query, query + 1)[1]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:RECOMMENDED]
        best = best[scores[best] > -np.inf]
        recommended = [
            {**item, "score": round(float(scores[row]), _DIGITS), "held_out": bool(row in relevant)}
            for row, item in zip(best, _named(catalogue, best), strict=True)
        ]
        found.append(
            {
                "user": str(ids[user]),
                "history": _named(catalogue, history),
                "held_out": _named(catalogue, relevant[:HELD_OUT]),
                "recommended": recommended,
            }
        )
    return found


def _named(catalogue: pa.Table, rows: npt.NDArray[Any]) -> list[dict[str, str]]:
    chosen = catalogue.take(pa.array(rows, pa.int64()))
    pairs = zip(chosen["item_id"].to_pylist(), chosen["item_name"].to_pylist(), strict=True)
    return [{"id": item, "name": name or ""} for item, name in pairs]
