"""Measures click probabilities on labelled held-out rows: AUC, log loss, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.config import ExperimentConfig
from twotower_tf.features.arrays import EncodedData
from twotower_tf.index.click_probability import ClickProbability
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.train import tower_vectors

MOST_ROWS = 1_000_000  # evenly from the split
BINS = 10
_CHUNK = 1 << 16

Floats = npt.NDArray[np.float64]


def measure_clicks(
    config: ExperimentConfig,
    model: TwoTower,
    prepared: Prepared,
    encoded: EncodedData,
    split: str,
    items: npt.NDArray[np.float32],
) -> dict[str, Any] | None:
    """Measures the probabilities of label 1 on rows of a split; `items` are unit vectors [num_items, vector_dim].

    Returns:
        `compute_quality` with `of_rows`, the rows of the split; None for a loss without a probability, a log without
        labels, or rows with one label alone.
    """
    if not (config.loss.labelled and (config.data.label or config.data.positive)):
        return None
    parameters = model.get_layer("loss").probability_parameters()
    total = prepared.num_rows(split)
    columns = prepared.columns(split, ["label", "item_row"])
    rows = np.linspace(0, total - 1, min(MOST_ROWS, total)).astype(np.int64)
    labels = columns["label"][rows] == 1
    if parameters is None or labels.all() or not labels.any():
        return None
    cosines = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        users = tower_vectors.user_vectors(model, encoded, split, part)
        cosines[start : start + len(part)] = np.einsum("ij,ij->i", users, items[columns["item_row"][part]])
    found = compute_quality(labels, ClickProbability(**parameters).of_cosines(np.clip(cosines, -1, 1)))
    return {**found, "of_rows": total}


def compute_quality(labels: npt.NDArray[np.bool_], probabilities: Floats) -> dict[str, Any]:
    """Computes AUC, log loss and calibration.

    Args:
        labels: [n] bool, of both kinds.
        probabilities: [n] float64 in (0, 1).

    Returns:
        `rows`; `positive_share`; `mean_probability`; `auc`, the share of pairs of a positive and a negative that are in
        order, ties counting half; `log_loss`, the mean of -ln p(label); `log_loss_of_share`, that of the positive share
        as everybody's probability; `calibration`: ten bins of equally many rows by probability, with `rows`, mean
        `predicted` and `observed` share of positives.
    """
    share = float(labels.mean())
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1; the mean of tied ones
    positives, negatives = int(labels.sum()), int((~labels).sum())
    above = float(ranks[labels].sum()) - positives * (positives + 1) / 2
    order = np.argsort(probabilities, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    return {
        "rows": len(labels),
        "positive_share": share,
        "mean_probability": float(probabilities.mean()),
        "auc": above / (positives * negatives),
        "log_loss": float(-np.log(np.where(labels, probabilities, 1 - probabilities)).mean()),
        "log_loss_of_share": float(-(share * np.log(share) + (1 - share) * np.log(1 - share))),
        "calibration": [
            {
                "rows": len(part),
                "predicted": float(probabilities[part].mean()),
                "observed": float(labels[part].mean()),
            }
            for part in bins
        ],
    }
