"""Mines negatives from the model's own ranking, again before every epoch but the first.

The ranking must be complete before the batches of its epoch are drawn, and the input pipeline draws batches ahead. So
with mined negatives every epoch is a separate `fit` with its own pipeline. A ranking is a function of the weights, so
that a resumed run computes the same one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.features.arrays import EncodedData
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.sampling.mined import MinedSampler
from twotower_tf.train.tower_vectors import item_vectors, user_vectors


def rank(model: TwoTower, encoded: EncodedData, mined: MinedSampler) -> None:
    """Gives the sampler the model's ranking of the catalogue for every user with a training positive.

    Args:
        model: of `two_tower.build`.
        encoded: the data.
        mined: the sampler.
    """
    users, rows = newest_rows(encoded.keys("train"))
    items = item_vectors(model, encoded, at=encoded.ranking_time("train"))
    mined.refresh(users, user_vectors(model, encoded, "train", rows), items)


def newest_rows(keys: dict[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Users `[n]` with a training positive, ascending, and the training row `[n]` of the newest of each.

    That row's features, as they were at its time, give the user's vector.
    """
    positive = np.flatnonzero(keys["label"] == 1)
    users, times = keys["user_row"][positive], keys["timestamp"][positive]
    order = np.lexsort((positive, times, users))
    last = np.append(users[order][1:] != users[order][:-1], True)[: len(order)]
    return users[order][last], positive[order][last]
