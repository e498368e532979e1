"""Computes metrics by slices of items (popularity) and of users (activity)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.evaluate.ranking import Ranking
from twotower_tf.evaluate.ranking_metrics import Mask

HOT_SHARE = 0.1  # of the items with a training positive

Counts = npt.NDArray[np.int64]


def item_popularity(train_count: Counts) -> dict[str, Mask]:
    """Marks cold items (no training positive), hot ones (the top 10 % of the others) and the tail, [num_items] each."""
    hot = np.zeros(len(train_count), np.bool_)
    trained = int((train_count > 0).sum())
    hot[np.argsort(-train_count, kind="stable")[: int(np.ceil(HOT_SHARE * trained))]] = True
    return {"hot": hot, "tail": ~hot & (train_count > 0), "cold": train_count == 0}


def user_activity(train_count: Counts) -> dict[str, Mask]:
    """Marks queries of users without a training positive, and thirds of the others by these counts [num_queries]."""
    known = train_count > 0
    low, high = np.quantile(train_count[known], (1 / 3, 2 / 3)) if known.any() else (0.0, 0.0)
    return {
        "new": ~known,
        "low": known & (train_count <= low),
        "medium": (train_count > low) & (train_count <= high) & known,
        "high": known & (train_count > high),
    }


def compute_slices(model: Ranking, baseline: Ranking, train_count: Counts, activity: Counts) -> dict[str, Any]:
    """Computes metrics of two rankings of the same queries per slice; None for a slice without queries.

    `train_count` [num_items] and `activity` [num_queries] are the training positives of items and of queries' users.

    """
    items: dict[str, Any] = {}
    for name, mask in item_popularity(train_count).items():
        relevant = model.relevant_of(mask)
        sizes = {"items": int(mask.sum()), "queries": int((relevant > 0).sum()), "relevant": int(relevant.sum())}
        items[name] = {**sizes, **_metrics(model.mean(item_mask=mask), baseline.mean(item_mask=mask))}
    users: dict[str, Any] = {}
    for name, mask in user_activity(activity).items():
        span = [int(activity[mask].min()), int(activity[mask].max())] if mask.any() else None
        users[name] = {
            "train_count": span,
            "queries": int(mask.sum()),
            "relevant": int(model.relevant.counts[mask].sum()),
            **_metrics(model.mean(query_mask=mask), baseline.mean(query_mask=mask)),
        }
    return {"item_popularity": items, "user_activity": users}


def _metrics(model: dict[str, float], baseline: dict[str, float]) -> dict[str, Any]:
    return {"metrics": model or None, "popularity": baseline or None}
