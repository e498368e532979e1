"""Finds the rows of the embedding tables that a training can read: they begin random, all others stay zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twotower_tf.config import ExperimentConfig, feature_name
from twotower_tf.config.features import SideName
from twotower_tf.features.arrays import PART, EncodedData
from twotower_tf.features.layout import IDS, Layout
from twotower_tf.model import embeddings
from twotower_tf.model.embeddings import EmbeddingTable
from twotower_tf.model.two_tower import TwoTower
from twotower_tf.sampling.pairs import Mask
from twotower_tf.sampling.samplers import Samplers


def draw_rows(config: ExperimentConfig, model: TwoTower, encoded: EncodedData, samplers: Samplers) -> None:
    """Gives random content to every row that this training can read and that has none.

    A training from the beginning finds all of them zero, a resumed one none, and a warm start those of new ids.

    Args:
        config: the experiment.
        model: of `two_tower.build`; its tables are changed in place.
        encoded: the prepared data.
        samplers: what draws the training's negatives.
    """
    for name, rows in readable_rows(config, encoded, samplers).items():
        table: EmbeddingTable = model.get_layer(name)
        table.draw_rows(rows, config.seed, config.model.initial_scale)


def readable_rows(config: ExperimentConfig, encoded: EncodedData, samplers: Samplers) -> dict[str, Mask]:
    """Finds the rows of every physical table that some step can read.

    These are the buckets of users and own items in the rows that an epoch may have, of the histories of these rows, and
    of all items that can be drawn as negatives. The encoded data are read once, part by part.

    Args:
        config: the experiment.
        encoded: the prepared data.
        samplers: what draws the training's negatives.

    Returns:
        Bool `[rows]` by name of the table.
    """
    marks = _Marks(config)
    rows = samplers.selection.rows
    for start in range(0, len(rows), PART):
        marks.add("user", encoded.user_features("train", rows[start : start + PART]))
    marks.add("user", encoded.history_reach(rows))
    for batch in encoded.item_reach(rows, samplers.drawable(encoded.keys("train"))):
        marks.add("item", batch)
    return marks.tables


class _Marks:
    """A bitmap per physical table.

    Attributes:
        tables: bool `[rows]` by name of the table.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.tables = {name: np.zeros(table.rows, bool) for name, table in embeddings.tables(config).items()}
        self._placed = embeddings.plan_tables(config)
        self._layouts: dict[SideName, Layout] = {"user": Layout(config, "user"), "item": Layout(config, "item")}

    def add(self, side: SideName, batch: Mapping[str, np.ndarray]) -> None:
        """Marks the rows that encoded tensors of a side are looked up at."""
        layout = self._layouts[side]
        if IDS in batch:
            for column, each in enumerate(layout.single):
                self._mark(side, feature_name(each), batch[IDS][:, column])
        for each in layout.multivalued:
            if (key := layout.values[feature_name(each)]) in batch:
                self._mark(side, feature_name(each), batch[key])

    def _mark(self, side: SideName, name: str, ids: np.ndarray) -> None:
        place = self._placed[side, name]
        self.tables[place.table][place.list_rows(ids[ids >= 0])] = True
