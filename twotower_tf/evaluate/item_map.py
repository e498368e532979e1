"""Projects item vectors to two dimensions, with the values of a feature for colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from twotower_tf.config import ExperimentConfig
from twotower_tf.config.features import Input
from twotower_tf.evaluate.collapse import Vectors
from twotower_tf.evaluate.feature_values import FeatureValues, list_columns, read_item_values
from twotower_tf.evaluate.slices import MISSING, OTHER, item_popularity
from twotower_tf.prepare.prepared import Prepared

POINTS = 2000
COLORS = 8  # values that have a colour of their own
_MOST_VALUES = 50  # of a feature that is chosen for the colours; the names of eight say little of more
_MOST_TEXTS = 10_000  # of a column, with all combinations of tags; one with more is not read
_BLOCK = 1 << 16
_DIGITS = 3


def make_map(config: ExperimentConfig, prepared: Prepared, items: Vectors) -> dict[str, Any]:
    """Projects a sample of the items.

    Args:
        config: the features; a column of `evaluation.slices` is preferred for the colours.
        prepared: the catalogue.
        items: [num_items, vector_dim] float32.

    Returns:
        Strict JSON: `items`, their number; `explained`, the share of the variance along each axis; `column`, whose
        values colour the points ("" is popularity); `names` of the values, those of most items first, at last those of
        all others and of none; `points`, `[x, y, place in names]` of at most 2,000 items.
    """
    column, names, codes = choose_colors(config, prepared)
    axes, center, explained = find_axes(items)
    rng = np.random.default_rng(config.seed)
    rows = np.sort(rng.choice(len(items), min(POINTS, len(items)), replace=False))
    places = (items[rows] - center) @ axes
    points = [
        [round(float(x), _DIGITS), round(float(y), _DIGITS), int(code)]
        for (x, y), code in zip(places, codes[rows], strict=True)
    ]
    return {"items": len(items), "explained": explained, "column": column, "names": names, "points": points}


def find_axes(vectors: Vectors) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[float]]:
    """Finds the first two principal components of vectors `[n, dim]`.

    Returns:
        `[dim, 2]` float64, unit length, of which the largest coordinate is positive (zero vectors beyond `dim`); the
        mean, `[dim]`; the share of the variance along each.
    """
    dim = vectors.shape[1]
    center = vectors.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((dim, dim))
    for start in range(0, len(vectors), _BLOCK):
        part = vectors[start : start + _BLOCK] - center
        covariance += part.T @ part
    variances, components = np.linalg.eigh(covariance)
    axes = np.zeros((dim, 2))
    axes[:, : min(2, dim)] = components[:, ::-1][:, :2]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    shares = np.maximum(variances[::-1], 0.0) / max(float(variances.sum()), np.finfo(np.float64).tiny)
    return axes * np.where(signs == 0, 1.0, signs), center, [float(share) for share in (*shares[:2], 0.0)][:2]


def choose_colors(config: ExperimentConfig, prepared: Prepared) -> tuple[str, list[str], npt.NDArray[np.int64]]:
    """Chooses the column whose values colour the items: one of `evaluation.slices`, or that with the fewest texts.

    Returns:
        The column, "" for popularity where no feature has 2 to 50 values; names of its values; [num_items] int64 places
        in them, of an item with several values that of its first.
    """
    columns = [column for column in list_columns(config, "item") if column.name != config.data.item_id]
    sliced = [column for column in columns if column.name in config.evaluation.slices]
    texts = [column for column in columns if column.kind != "number" and _has_few_texts(prepared, column)]
    for group in (sliced, texts):
        found = [read_item_values(prepared, column) for column in group]
        usable = [values for values in found if 2 <= len(values.names) <= _MOST_VALUES]
        if usable:
            chosen = min(usable, key=lambda values: len(values.names))
            return chosen.column, *name_colors(chosen)
    masks = item_popularity(prepared.train_count())
    return "", [*masks], np.argmax(np.stack([*masks.values()]), axis=0)


def _has_few_texts(prepared: Prepared, column: Input) -> bool:
    return int(pc.count_distinct(prepared.items([column.name]).column(0)).as_py()) <= _MOST_TEXTS


def name_colors(values: FeatureValues) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Returns the names of the 8 values of most items, of all others and of none, and each item's place in them."""
    first = np.full(values.size, len(values.names), np.int64)
    first[values.rows[::-1]] = values.codes[::-1]  # the first of a row is written last
    counts = np.bincount(first, minlength=len(values.names) + 1)[:-1]
    most = sorted(range(len(counts)), key=lambda code: (-counts[code], values.names[code]))[:COLORS]
    most = sorted(most) if values.ordered else most
    names = [*(values.names[code] for code in most), OTHER, MISSING]
    place = np.full(len(values.names) + 1, len(most), np.int64)
    place[most] = np.arange(len(most))
    place[-1] = len(most) + 1
    return names, place[first]
