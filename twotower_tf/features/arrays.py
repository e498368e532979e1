"""Maps encoded arrays from disk and takes batches of them. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import SPLITS
from twotower_tf.config import ExperimentConfig, History
from twotower_tf.config.history_encoders import is_causal
from twotower_tf.errors import ArtifactError
from twotower_tf.features import time_gaps
from twotower_tf.features.array_writer import SCHEMA_VERSION
from twotower_tf.features.catalogue_versions import Batch, Versions, load
from twotower_tf.features.inputs import history_target, list_histories
from twotower_tf.features.layout import IDS, NO_VALUE, Layout
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.ragged import merge_ranges
from twotower_tf.tables.timestamps import MICROSECONDS

PART = 1 << 18  # rows that are read at once where all of them are


@dataclass(frozen=True)
class _History:
    """How a history feature is looked up.

    Attributes:
        key: of its tensor.
        column: of the catalogue's ids.
        length: number of values.
        gaps: key of the tensor with its gaps' buckets, "" without `time_gaps`.
        to_next: see `time_gaps.find_gaps`.
    """

    key: str
    column: int
    length: int
    gaps: str
    to_next: bool


class EncodedData:
    """The prepared data as the towers take them, encoded for this configuration."""

    def __init__(self, config: ExperimentConfig, prepared: Prepared) -> None:
        """Maps the arrays.

        Raises:
            ArtifactError: where they are missing, or were encoded for another configuration.
        """
        root = prepared.paths.encoded_items.parent
        again = "run `twotower prepare` again"
        document = artifacts.read_json(root / "manifest.json", "prepared directory", SCHEMA_VERSION, again)
        if document["config_fingerprint"] != configuration.fingerprint(config, configuration.PREPARED):
            raise ArtifactError(f"{root}: encoded for another configuration; {again}")
        self.config = config
        self._prepared = prepared
        self._ordered = config.data.ordered
        self._items = load(prepared.paths.encoded_items)
        self._versions = Versions(prepared.paths) if prepared.manifest["item_columns_as_of"] else None
        self._splits = {split: load(prepared.paths.encoded(split)) for split in SPLITS}
        self._keys: dict[str, dict[str, np.ndarray]] = {}
        self._times: dict[str, np.ndarray] = {}
        self._sequences: dict[str, np.ndarray] = {}
        self._sequence_seconds: dict[str, np.ndarray] = {}
        self._histories = [_lookup(config, each) for each in list_histories(config)]
        self.num_items = prepared.num_items

    def keys(self, split: str) -> dict[str, np.ndarray]:
        """Returns the key columns of a split's rows, `[rows]`: those of `Prepared.columns` that the preparation has."""
        if split not in self._keys:
            self._keys[split] = self._prepared.columns(split, self._prepared.manifest["keys"])
        return self._keys[split]

    @property
    def varies(self) -> bool:
        """Whether item features change with time."""
        return self._versions is not None

    def item_batch(self, item_rows: np.ndarray, times: np.ndarray | int | None = None) -> Batch:
        """Returns encoded item tensors of catalogue rows `[n]`.

        Args:
            item_rows: of the catalogue.
            times: epoch microseconds `[n]`, or one for all, as of which the items are taken; None gives the catalogue,
                as of the preparation.
        """
        if self._versions is None or times is None:
            return {name: array[item_rows] for name, array in self._items.items()}
        return self._versions.batch(item_rows, times)

    def times(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Returns the times whose item values a split's rows `[n]` have: epoch microseconds, 0 without a time."""
        if self._versions is None:
            return np.zeros(len(rows), np.int64)
        if split not in self._times:
            found = self._prepared.columns(split, ["timestamp", "microsecond"])
            self._times[split] = found["timestamp"] * MICROSECONDS + found["microsecond"]
        times: np.ndarray = self._times[split][rows]
        return times

    def ranking_time(self, split: str) -> int | None:
        """Returns the time as of which the catalogue is ranked for a split, in epoch microseconds.

        Held-out splits know the catalogue as of their first event, the training split as of its last. None, the
        catalogue as of the preparation, where no item feature changes with time or the split has no event with a time.
        """
        times = self._prepared.manifest["split_times"].get(split)
        if self._versions is None or times is None:
            return None
        return int(times[1] if split == "train" else times[0])

    def user_batch(
        self,
        split: str,
        rows: np.ndarray,
        rng: np.random.Generator | None = None,
        without: Collection[str] = (),
        own_too: bool = False,
    ) -> Batch:
        """Returns encoded user tensors of a split's rows `[n]`.

        Args:
            split: "train", "valid" or "test".
            rows: of the split.
            rng: for logs without time, where a history is a random part of the user's other items; without it, the
                part is the last one.
            without: keys of histories' tensors to leave out.
            own_too: of logs without time, takes a training row's own item into its history as well.
        """
        batch = self.user_features(split, rows)
        for history in self._histories:
            if history.key not in without:
                items = self.history_items(split, rows, history.length, rng, own_too)
                timed = None
                if history.gaps:
                    timed = self.history_times(split, rows, history.length), self.keys(split)["timestamp"][rows]
                batch |= _encode_history(history, items, self._history_ids(history, items), timed)
        return batch

    def sequence_batch(self, key: str, first: np.ndarray, stop: np.ndarray) -> tuple[Batch, np.ndarray]:
        """Returns encoded values of parts, from `first` to `stop`, `[n]` each, of the users' training sequences.

        Returns:
            by key of the tensors int32 `[n, longest]` (at least 1), as in histories, where the newest item's gap ends
            at the user's next positive; and int64 `[n, longest + 1]`, how many of the first 0, 1, ... items of a part
            have a value.
        """
        history = next(each for each in self._histories if each.key == key)
        items, timed = _slices(self._sequence("train"), first, stop), None
        if history.gaps:
            times = self._sequence_times("train")
            timed = _slices(times, first, stop, 0), times[np.minimum(stop, len(times) - 1)]
        ids = self._history_ids(history, items)
        before = np.cumsum(np.pad(ids >= 0, [(0, 0), (1, 0)]), axis=1)
        return _encode_history(history, items, ids, timed), before

    def _history_ids(self, history: _History, items: np.ndarray) -> np.ndarray:
        """Returns bucket ids of catalogue rows of any shape, -1 for none."""
        ids: np.ndarray = self._items[IDS][:, history.column][items]
        return np.where(items >= 0, ids, np.int32(NO_VALUE))

    def user_features(self, split: str, rows: np.ndarray) -> Batch:
        """Returns encoded user tensors of a split's rows `[n]` without histories."""
        return {name[5:]: array[rows] for name, array in self._splits[split].items() if name.startswith("user.")}

    def history_reach(self, rows: np.ndarray) -> Batch:
        """Returns the ids that histories of training rows `[n]` can contain: int32 `[ids]` by tensor key.

        It is read from the users' sequences, each place of which counts once, however many histories it is in.
        """
        keys, sequence = self.keys("train"), self._sequence("train")
        start, end = keys["history_start"][rows], keys["history_end"][rows]
        reach: Batch = {}
        for history in self._histories:
            first = np.maximum(start, end - history.length) if self._ordered else start
            items = np.zeros(self.num_items, bool)
            items[sequence[merge_ranges(first, end, len(sequence))]] = True
            reach[history.key] = self._items[IDS][:, history.column][items]
        return reach

    def item_reach(self, rows: np.ndarray, drawable: np.ndarray) -> Iterator[Batch]:
        """Yields encoded item tensors that a training can read, part by part and each once.

        Args:
            rows: `[n]` of the training split: their own items as of their own times.
            drawable: bool `[num_items]`: items that they may have as negatives, as of any time from the first row's to
                the last one's.
        """
        own = self.keys("train")["item_row"]
        if self._versions is None:
            met = drawable.copy()
            met[own[rows]] = True
        else:
            times = self.times("train", rows)
            met = self._versions.between(drawable, int(times.min()), int(times.max()))
            for start in range(0, len(rows), PART):
                part = rows[start : start + PART]
                met[self._versions.find(own[part], times[start : start + PART])] = True
        chosen = np.flatnonzero(met)
        for start in range(0, len(chosen), PART):
            part = chosen[start : start + PART]
            yield self.item_batch(part) if self._versions is None else self._versions.rows(part)

    def history_items(
        self,
        split: str,
        rows: np.ndarray,
        length: int,
        rng: np.random.Generator | None = None,
        own_too: bool = False,
    ) -> np.ndarray:
        """Returns the histories' catalogue rows, int32 `[n, longest]` (at least 1), oldest first, padded with -1."""
        keys = self.keys(split)
        start, end = keys["history_start"][rows], keys["history_end"][rows]
        sequence = self._sequence("seen" if split == "test" else "train")
        if not self._ordered and split == "train":
            own = np.full(len(rows), NO_VALUE) if own_too else keys["item_row"][rows]
            return self._others(sequence, start, end, own, length, rng)
        return _slices(sequence, np.maximum(start, end - length), end)

    def history_times(self, split: str, rows: np.ndarray, length: int) -> np.ndarray:
        """Returns the times of the items of `history_items`, int64 `[n, longest]` epoch seconds, padded with 0."""
        keys = self.keys(split)
        start, end = keys["history_start"][rows], keys["history_end"][rows]
        return _slices(
            self._sequence_times("seen" if split == "test" else "train"), np.maximum(start, end - length), end, 0
        )

    def _sequence(self, which: str) -> np.ndarray:
        """Returns `Prepared.sequence`, mapped once."""
        if which not in self._sequences:
            self._sequences[which] = np.asarray(self._prepared.sequence(which))
        return self._sequences[which]

    def _sequence_times(self, which: str) -> np.ndarray:
        """Returns `Prepared.sequence_times`, mapped once."""
        if which not in self._sequence_seconds:
            self._sequence_seconds[which] = np.asarray(self._prepared.sequence_times(which))
        return self._sequence_seconds[which]

    def _others(
        self,
        sequence: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        own: np.ndarray,
        length: int,
        rng: np.random.Generator | None,
    ) -> np.ndarray:
        """Returns a run of the user's items from a random place on, cyclically, without `own`."""
        size = (end - start).astype(np.int32)
        taken = np.minimum(size, length + 1)
        offset = np.zeros_like(size) if rng is None else rng.integers(0, np.maximum(size, 1), dtype=np.int32)
        width = max(1, int(np.max(taken, initial=0)))
        steps = np.arange(width, dtype=np.int32)
        places = offset[:, np.newaxis] + steps  # less than twice the size, where they count
        places -= size[:, np.newaxis] * (places >= size[:, np.newaxis])
        present = steps < taken[:, np.newaxis]
        if not len(sequence):
            return np.full((len(own), 1), NO_VALUE, np.int32)
        items = sequence[np.where(present, start[:, np.newaxis] + places, 0)]
        kept = present & (items != own[:, np.newaxis])
        # Values first, padding after; a run that did not meet the own item is one too long.
        others = np.full(items.shape, NO_VALUE, np.int32)
        others[steps < kept.sum(axis=1, dtype=np.int32)[:, np.newaxis]] = items[kept]
        return others[:, : max(1, min(width, length))]


def _encode_history(
    history: _History, items: np.ndarray, ids: np.ndarray, timed: tuple[np.ndarray, np.ndarray] | None
) -> Batch:
    """Returns the tensors of a history of catalogue rows `[n, length]` and their bucket ids, which are changed.

    The padding is behind the values also in rows where an item has no value, as the signature has it. `timed` has the
    times of items and events.
    """
    batch = {history.key: ids}
    if timed is not None:
        counts = np.count_nonzero(items >= 0, axis=1)
        gaps = time_gaps.find_gaps(timed[0], counts, timed[1], to_next=history.to_next)
        batch[history.gaps] = np.where(ids >= 0, gaps, np.int32(NO_VALUE))
    broken = ((ids < 0) & (items >= 0)).any(axis=1)
    if broken.any():
        order = np.argsort(ids[broken] < 0, axis=1, kind="stable")
        for values in batch.values():
            values[broken] = np.take_along_axis(values[broken], order, axis=1)
    return batch


def _slices(sequence: np.ndarray, first: np.ndarray, stop: np.ndarray, padding: int = NO_VALUE) -> np.ndarray:
    """Takes parts `[n]` of an array, `[n, longest]` (at least 1) of its type, padded."""
    width = max(1, int(np.max(stop - first, initial=0)))
    positions = first[:, np.newaxis] + np.arange(width)
    present = positions < stop[:, np.newaxis]
    if not len(sequence):
        return np.full(positions.shape, padding, sequence.dtype)
    return np.where(present, sequence[np.where(present, positions, 0)], padding).astype(sequence.dtype)


def _lookup(config: ExperimentConfig, history: History) -> _History:
    column = Layout(config, "item").single.index(history_target(config, history))
    layout, causal = Layout(config, "user"), is_causal(history.encoder)
    return _History(layout.values[history.name], column, history.length, layout.gaps.get(history.name, ""), causal)
