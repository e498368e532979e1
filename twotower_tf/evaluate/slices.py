"""Computes metrics by slices: of items by popularity, of users by activity, of both by values of their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twotower_tf import ragged
from twotower_tf.evaluate import ranking_metrics
from twotower_tf.evaluate.protocol import Queries
from twotower_tf.evaluate.ranking import Ranking
from twotower_tf.evaluate.ranking_metrics import Mask

if TYPE_CHECKING:
    from twotower_tf.evaluate.feature_values import FeatureValues

HOT_SHARE = 0.1  # of the items with a training positive
MOST_VALUES = 10  # of a feature; the others are one slice
OTHER, MISSING = "(other)", "(none)"

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


def mark_values(values: FeatureValues, rows: Counts, users: Counts) -> dict[str, Mask]:
    """Marks the rows with each of a feature's 10 values of most users, those with another value, those without any.

    A row with several values, as of tags, is in the slice of each.

    Args:
        values: the values of `size` rows.
        rows: [n] int64, rows with a user each, of which a row may have several or none.
        users: [n] int64, these users.

    Returns:
        [size] bool by value, those of most users first (numbers ascending), without slices that have no row.
    """
    counts = _count_users(values, rows, users)
    most = sorted(range(len(counts)), key=lambda code: (-counts[code], values.names[code]))
    most = [code for code in most if values.names[code] not in (OTHER, MISSING)][:MOST_VALUES]
    codes = sorted(most) if values.ordered else most
    slice_of = np.full(len(values.names), len(codes), np.int64)
    slice_of[codes] = np.arange(len(codes))
    masks = np.zeros((len(codes) + 2, values.size), np.bool_)
    masks[slice_of[values.codes], values.rows] = True
    masks[-1] = ~masks.any(axis=0)
    names = [*(values.names[code] for code in codes), OTHER, MISSING]
    return {name: mask for name, mask in zip(names, masks, strict=True) if mask.any()}


def _count_users(values: FeatureValues, rows: Counts, users: Counts) -> Counts:
    """Counts the distinct users of each value, [num_values]."""
    order = np.argsort(rows, kind="stable")
    starts, ends = (np.searchsorted(rows[order], values.rows, side) for side in ("left", "right"))
    size = max(1, len(values.names))
    codes = np.repeat(values.codes, ends - starts)
    distinct = np.unique(users[order[ragged.to_places(starts, ends - starts)]] * size + codes)
    return np.bincount(distinct % size, minlength=len(values.names))


def compute_slices(
    model: Ranking,
    baseline: Ranking,
    queries: Queries,
    train_count: Counts,
    activity: Counts,
    features: Sequence[FeatureValues] = (),
) -> dict[str, Any]:
    """Computes metrics of two rankings of the same queries per slice; None for a slice without queries.

    In a slice of items only its own held-out items are relevant, and all items are ranked.

    Args:
        model: the model's ranking.
        baseline: another one.
        queries: the queries of both.
        train_count: [num_items] int64, training positives of items.
        activity: [num_users] int64, training positives of users.
        features: values of features, by query or by item.

    Returns:
        Slices by name in groups: "item_popularity", "user_activity", "SIDE.COLUMN" of each feature.
    """
    own = activity[queries.user_rows]
    of_users = {"user_activity": user_activity(own)}
    of_items = {"item_popularity": item_popularity(train_count)}
    everyone = np.arange(len(queries))
    query, item = queries.relevant.block(0, len(queries))
    for values in features:
        name = f"{values.side}.{values.column}"
        if values.side == "user":
            of_users[name] = mark_values(values, everyone, queries.user_rows)
        else:
            of_items[name] = mark_values(values, item.astype(np.int64), queries.user_rows[query])
    found = {
        **{group: _measure_items(model, baseline, queries, masks) for group, masks in of_items.items()},
        **{group: _measure_users(model, baseline, queries, masks) for group, masks in of_users.items()},
    }
    for name, figures in found["user_activity"].items():
        mask = of_users["user_activity"][name]
        figures["train_count"] = [int(own[mask].min()), int(own[mask].max())] if mask.any() else None
    order = ["item_popularity", "user_activity", *(f"{values.side}.{values.column}" for values in features)]
    return {group: found[group] for group in order}


def _measure_items(model: Ranking, baseline: Ranking, queries: Queries, masks: dict[str, Mask]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, mask in masks.items():
        relevant = model.relevant_of(mask)
        found[name] = {
            "items": int(mask.sum()),
            "users": len(np.unique(queries.user_rows[relevant > 0])),
            "queries": int((relevant > 0).sum()),
            "relevant": int(relevant.sum()),
            "metrics": model.mean(item_mask=mask) or None,
            "popularity": baseline.mean(item_mask=mask) or None,
        }
    return found


def _measure_users(model: Ranking, baseline: Ranking, queries: Queries, masks: dict[str, Mask]) -> dict[str, Any]:
    rankings = {"metrics": model.per_query(), "popularity": baseline.per_query()}
    found: dict[str, Any] = {}
    for name, mask in masks.items():
        means = {
            key: ranking_metrics.mean({metric: column[mask] for metric, column in values.items()}) or None
            for key, values in rankings.items()
        }
        found[name] = {
            "users": len(np.unique(queries.user_rows[mask])),
            "queries": int(mask.sum()),
            "relevant": int(queries.relevant.counts[mask].sum()),
            **means,
        }
    return found
