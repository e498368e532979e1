"""Builds the configured samplers from the training split and the users' past.

In a preparation that continues an earlier one (`prepare --since`) the training split has the new rows alone, while what
users took before stands in the sequences and the counts of the catalogue. What must never be a negative, and how
popular an item is, goes by all runs. What an epoch reads goes by its rows: thinning, the share of an item among the
batch's own items, rejections and lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from twotower_tf.config import ExperimentConfig, Labelled, Mined, Popularity, Rejections, SameAttribute, SkipAbove
from twotower_tf.config.checks import list_causal_histories
from twotower_tf.errors import ConfigError, DataError, unknown_name
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling import accidental_hits, availability
from twotower_tf.sampling.catalogue_samplers import CatalogueSampler, PopularitySampler, UniformSampler, WholeCatalogue
from twotower_tf.sampling.epoch_selection import EpochSelection, describe_untimed, weigh_rows
from twotower_tf.sampling.mined import MinedSampler
from twotower_tf.sampling.mixture import Part, RowMixture, SharedCandidates, SharedPart
from twotower_tf.sampling.negatives_plan import compute_weight, plan_negatives, require_items
from twotower_tf.sampling.pairs import Items, Mask, Pairs
from twotower_tf.sampling.rejections import RejectionSampler
from twotower_tf.sampling.row_sampler import PositivesBatch, RowSampler
from twotower_tf.sampling.same_attribute import SameAttributeSampler, number_groups
from twotower_tf.sampling.skip_above import SkipAboveSampler

Keys = Mapping[str, npt.NDArray[Any]]


class Samplers:
    """Everything that is drawn for training.

    Attributes:
        positives: every user's training positives, those of earlier runs among them.
        counts: `[num_items]` training positives of each item, of all runs and before any thinning.
        selection: which rows an epoch has.
        weights: `[rows]` float32 of the training split, or None where all rows count 1.
        notes: lines to print of what the data do not say.
        rows: negatives of single rows.
        columns: candidates of the whole batch.
        mined: the sampler whose ranking is to be refreshed, where there is one.
    """

    def __init__(self, config: ExperimentConfig, prepared: Prepared, keys: Keys) -> None:
        """Reads the users' positives and builds the samplers; `keys` are the key columns of the training split.

        Raises:
            DataError: without any training positive, or where a user has all items that could be drawn.
            ConfigError: for draws that the catalogue cannot give.
        """
        users, items, label = keys["user_row"], keys["item_row"], keys["label"]
        positive = label == 1
        if not positive.any():
            raise DataError("prepared/examples/train: no positive row to train on; check data.label and data.positive")
        num_items = prepared.num_items
        plan, batch = plan_negatives(config), estimate_events(config, users)
        require_items(config, num_items)
        self._masked = config.sampling.masked
        self.positives = _read_positives(prepared)
        self.counts = prepared.train_count()
        labelled = any(isinstance(each, Labelled) for each in config.sampling.negatives or ())
        self.selection = EpochSelection(config.sampling, users, items, label, num_items, labelled=labelled)
        half_life = config.sampling.recency_half_life
        self.weights = weigh_rows(keys, half_life)
        self.notes = [line for line in [describe_untimed(keys["timestamp"], half_life)] if line]
        self.mined: MinedSampler | None = None
        log_available = None
        if getattr(config.loss, "growing", False):
            log_available = availability.compute_log_availability(keys, num_items, self.counts, self.weights)
        self.rows = RowMixture(
            [
                Part(each.type, self._build_own(each, prepared, keys), count, compute_weight(each, plan, batch))
                for each, count in plan.own
            ],
            log_available,
        )
        shared = [SharedPart(each.type, self._build_catalogue(each), count) for each, count in plan.shared]
        if plan.whole:
            shared.append(SharedPart("Catalogue", WholeCatalogue(self.positives), num_items))
        self.columns = SharedCandidates(self.selection.share, plan.in_batch, shared, plan.queue, log_available)

    def drawable(self, keys: Keys) -> Mask:
        """Returns which items can be drawn as a negative in any epoch, `[num_items]` bool."""
        index = self.selection.rows[keys["label"][self.selection.rows] == 1]
        rows = PositivesBatch(index, keys["user_row"][index], keys["item_row"][index])
        found = np.zeros(self.positives.num_items, bool)
        parts: list[Part | SharedPart] = [*self.rows.parts, *self.columns.parts]
        for part in parts:
            if part.draws:
                found |= part.sampler.drawable(rows)
        return found

    def find_hits(self, rows: PositivesBatch, columns: Items) -> Items:
        """Finds the shared candidates that are not negatives of a row, as `sampling.masked` says (`find_hits`)."""
        if self._masked == "row":
            return accidental_hits.find_own_hits(rows.own, columns)
        return accidental_hits.find_hits(self.positives, rows.users, columns)

    def _build_catalogue(self, kind: Any) -> CatalogueSampler:
        if isinstance(kind, Popularity):
            return PopularitySampler(self.positives, self.counts, kind.alpha, kind.floor)
        return UniformSampler(self.positives)

    def _build_own(self, kind: Any, prepared: Prepared, keys: Keys) -> RowSampler:
        if isinstance(kind, SameAttribute):
            return SameAttributeSampler(self.positives, number_attribute_groups(prepared, kind.columns))
        if isinstance(kind, Rejections):
            rejected = keys["rejected"] if kind.explicit else keys["label"] != 1
            return RejectionSampler(self.positives, keys["user_row"][rejected], keys["item_row"][rejected])
        if isinstance(kind, SkipAbove):
            names = ("user_row", "item_row", "label", "list", "position")
            return SkipAboveSampler(self.positives, *(keys[name] for name in names))
        catalogue = self._build_catalogue(kind)
        catalogue.require_left(np.unique(keys["user_row"][keys["label"] == 1]))
        if isinstance(kind, Mined):
            self.mined = MinedSampler(self.positives, catalogue, kind.ranks)
            return self.mined
        return catalogue


def estimate_events(config: ExperimentConfig, users: npt.NDArray[Any]) -> int:
    """Estimates the events of a batch: of users, what they have on average; of sequences, within the length."""
    batch = config.batch_size
    if not (config.train.sequences or config.train.by_user):
        return batch
    events = max(1, round(len(users) / len(np.unique(users))))
    if config.train.sequences:
        events = min(list_causal_histories(config.user_features)[0].length, events)
    return batch * events


def _read_positives(prepared: Prepared) -> Pairs:
    """Returns every user's training positives, of this run and earlier ones."""
    counts = np.diff(prepared.sequence_users("train"))
    users = np.repeat(np.arange(prepared.num_users), counts)
    return Pairs(users, np.asarray(prepared.sequence("train")), prepared.num_users, prepared.num_items)


def number_attribute_groups(prepared: Prepared, columns: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Numbers each item's group by its values in columns of the catalogue, `[num_items]`, -1 for none.

    Raises:
        ConfigError: for a column that the catalogue does not have.
    """
    known = pq.read_schema(prepared.paths.items).names
    for name in columns:
        if name not in known:
            raise ConfigError(
                f"sampling.negatives: SameAttribute: {unknown_name('column of the catalogue', name, known)}"
            )
    return number_groups(prepared.items(columns), columns)
