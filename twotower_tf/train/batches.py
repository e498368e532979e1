"""Batches of the training split: a global shuffle and fresh negatives, without work per example in Python.

Everything random is a function of seed, epoch and step, so that a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower_tf.config import ExperimentConfig
from twotower_tf.config.checks import check_batch_size, list_causal_histories
from twotower_tf.errors import ConfigError
from twotower_tf.features.arrays import EncodedData
from twotower_tf.features.layout import IDS, NUMERIC
from twotower_tf.model import towers, two_tower
from twotower_tf.model.losses import candidates
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.sampling import negatives_plan
from twotower_tf.sampling.pairs import Ints, Items, Mask
from twotower_tf.sampling.row_sampler import PositivesBatch
from twotower_tf.sampling.samplers import Samplers
from twotower_tf.train.batches_of_near import batches_of_near
from twotower_tf.train.sequences import WindowBatch, WindowEpoch, Windows

Example = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]
Floats = npt.NDArray[np.float32]

_SHUFFLE, _DRAW = 0, 1  # streams of random numbers, apart from each other


@dataclass(frozen=True)
class Drawn:
    """What one step compares, as catalogue rows.

    Attributes:
        rows: `[batch]` of the training split, with their users and own items.
        label: `[batch]` float32, 0 for labelled negatives.
        weight: `[batch]` float32.
        negatives: `[batch, n]` of the rows' own samplers.
        present: `[batch, n]`, false where a sampler had nothing: the item there is the row's own.
        shared: `[shared]` for the whole batch.
        queued: the batches before's own items that the queue holds, the newest last.
        windows: of the users' sequences that have the rows, where training rows are sequences.
    """

    rows: PositivesBatch
    label: Floats
    weight: Floats
    negatives: Items
    present: Mask
    shared: Items
    queued: Ints
    windows: WindowBatch | None = None

    def take(self, rows: slice) -> Drawn:
        """Returns some rows, as a batch of their own."""
        return replace(
            self,
            rows=self.rows.take(rows),
            label=self.label[rows],
            weight=self.weight[rows],
            negatives=self.negatives[rows],
            present=self.present[rows],
            windows=None,
        )


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several workers trains on; parts differ in size by at most one row.

    Attributes:
        index: of the worker, from 0.
        count: of the workers.
    """

    index: int
    count: int

    def of(self, size: int) -> slice:
        """Returns which of `size` rows are the worker's: those of worker 0 first, then those of worker 1."""
        return slice(size * self.index // self.count, size * (self.index + 1) // self.count)


WHOLE = Shard(0, 1)


@dataclass(frozen=True)
class Epoch:
    """The rows of an epoch in the order of training.

    Attributes:
        rows: `[n]` of the training split.
        bounds: `[steps + 1]`, where each step's rows begin in `rows`.
        windows: of the users' sequences that have the rows, where training rows are sequences.
    """

    rows: Ints
    bounds: Ints
    windows: WindowEpoch | None = None


class Batches:
    """The training rows as batches for `keras.Model.fit`.

    With `train.rows="sequence"` a batch is `batch_size` windows of users' sequences, and its rows are the events in
    them, whose number differs from batch to batch. With `"user"` it is `batch_size` users, and its rows are theirs.

    Of several workers each draws the whole batch, and looks up the values of its own part alone. Candidates that all
    rows share are those of the whole batch; a worker looks its part of them up, too (`model.replicas.gather_rows`).

    Attributes:
        examples: events read per epoch.
        steps: batches per epoch.
        batch_size: training rows of each: events, windows, or users.
        events: of a batch, on average.
        samplers: what draws the negatives.
    """

    def __init__(
        self, config: ExperimentConfig, prepared: Prepared, encoded: EncodedData, shard: Shard = WHOLE
    ) -> None:
        """Chooses the rows; `shard` is the part of each batch whose values are looked up.

        Raises:
            DataError: without any training positive, or where a user's positives leave nothing to draw, or training
                rows are sequences and no event has a history.
            ConfigError: where the batch is larger than the data or smaller than the number of workers, or draws are
                asked for that the catalogue cannot give.
        """
        self._config = config
        self._shard = shard
        self._encoded = encoded
        self._keys = encoded.keys("train")
        self._names = {side: two_tower.batch_names(config, side) for side in ("user", "item")}
        self.samplers = Samplers(config, prepared, self._keys)
        self.examples = self.samplers.selection.size
        histories = list_causal_histories(config.user_features) if config.train.sequences else []
        self._items_once = negatives_plan.reads_items_once(config)
        self._sequences = towers.sequence_keys(config, "user")
        self._windows = Windows(self._keys, self.samplers.selection.rows, histories[0].length) if histories else None
        self.batch_size = size = config.batch_size
        self._users = np.unique(self._keys["user_row"][self.samplers.selection.rows])
        rows, kind = self.examples, "training rows"
        if self._windows:
            rows, kind = self._windows.count, "windows of users' sequences"
        elif config.train.by_user:
            rows, kind = len(self._users), "users with training positives"
        check_batch_size(size, rows, kind)
        if size < shard.count:
            raise ConfigError(
                f"train.batch_size: invalid value {size} for {shard.count} workers (expected at least one row for "
                "each); raise it, or use fewer workers"
            )
        self.steps = rows // size
        self.events = size * self.examples / rows

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Example]:
        """Yields the batches of an epoch (counted from 0) from `first_step` on, without a last partial batch."""
        order = self._order(epoch)
        return (self._made(order, epoch, step) for step in range(first_step, self.steps))

    def drawn(self, epoch: int, first_step: int = 0) -> Iterator[tuple[int, Drawn]]:
        """Yields the draws of the batches of `epoch`, before their values are looked up; see `epoch`."""
        order = self._order(epoch)
        return ((step, self._drawn(order, epoch, step)) for step in range(first_step, self.steps))

    def dataset(self, first_epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """Returns all batches from a step of an epoch on, without end; they are made ahead while a step runs.

        Mined negatives are of the latest ranking when a batch is made: see `train.mining`.
        """
        first = first_epoch * self.steps + first_step
        made, signature = self.make_arrays(), self.signature()
        specs = tf.nest.flatten(signature)

        def batch(number: tf.Tensor) -> Any:
            # `Dataset.from_generator` calls Python three times for a batch and takes twice as long.
            parts = tf.numpy_function(lambda each: made(first + int(each)), [number], [spec.dtype for spec in specs])
            return pack_arrays(parts, signature)

        return disable_autotuning(tf.data.Dataset.counter().map(batch).prefetch(4))

    def make_arrays(self) -> Callable[[int], list[np.ndarray]]:
        """Returns a function from a batch's number, over all epochs, to its arrays in the order of `signature`."""
        kept: dict[int, Epoch] = {}  # the present one

        def made(number: int) -> list[np.ndarray]:
            epoch, step = divmod(number, self.steps)
            order = kept.get(epoch)
            if order is None:
                kept.clear()
                order = kept[epoch] = self._order(epoch)
            return tf.nest.flatten(self._made(order, epoch, step))  # type: ignore[no-any-return]

        return made

    def _order(self, epoch: int) -> Epoch:
        """Returns the epoch's rows in the order of training.

        The rows are shuffled as a whole. Where values of items change with time and a batch shares candidates, each
        batch has rows of about one time instead (windows whose newest rows are): a shared candidate has the value of
        its own row's time, which would otherwise distinguish a row's own item from the others.
        """
        rng = np.random.default_rng([self._config.seed, _SHUFFLE, epoch])
        order: Ints = self.samplers.selection.epoch(rng)
        size = self.batch_size
        by_time = self._encoded.varies and bool(self.samplers.columns)
        if self._windows is not None:
            times = self._encoded.times("train", np.arange(len(self._keys["label"]))) if by_time else None
            windows = self._windows.epoch(order, rng, size, times)
            return Epoch(windows.rows, windows.bounds[: self.steps * size + 1 : size], windows)
        if self._config.train.by_user:
            return self._by_user(order, rng)
        if by_time:
            order = batches_of_near(order, self._encoded.times("train", order), size, rng)
        return Epoch(order, np.arange(self.steps + 1) * size)

    def _by_user(self, order: Ints, rng: np.random.Generator) -> Epoch:
        """Arranges rows user by user, the users in random order and `batch_size` of them in a batch."""
        ranks = rng.permutation(len(self._users))[np.searchsorted(self._users, self._keys["user_row"][order])]
        arranged = np.argsort(ranks, kind="stable")
        bounds = np.searchsorted(ranks[arranged], np.arange(self.steps + 1) * self.batch_size)
        return Epoch(order[arranged], bounds)

    def _drawn(self, order: Epoch, epoch: int, step: int) -> Drawn:
        begin, end = order.bounds[step : step + 2]
        before = order.rows[max(0, begin - self.samplers.columns.queue) : begin]
        rng = np.random.default_rng([self._config.seed, _DRAW, epoch, step])
        drawn = self._draw(order.rows[begin:end], before, rng)
        if order.windows is None:
            return drawn
        return replace(drawn, windows=order.windows.batch(step * self.batch_size, (step + 1) * self.batch_size))

    def _made(self, order: Epoch, epoch: int, step: int) -> Example:
        return self._example(self._drawn(order, epoch, step), [self._config.seed, _DRAW, epoch, step, 1])

    def _draw(self, index: Ints, before: Ints, rng: np.random.Generator) -> Drawn:
        samplers, items = self.samplers, self._keys["item_row"]
        rows = PositivesBatch(index, self._keys["user_row"][index], items[index])
        label = self._keys["label"][index].astype(np.float32)
        negatives: Items = np.repeat(rows.own[:, np.newaxis].astype(np.int32), samplers.rows.draws, axis=1)
        present = np.zeros(negatives.shape, bool)
        positive = label == 1  # a labelled negative is one already: nothing is drawn for it
        if samplers.rows.draws:
            negatives[positive], present[positive] = samplers.rows.draw(rng, rows.take(positive))
        weight = np.ones(len(index), np.float32) if samplers.weights is None else samplers.weights[index]
        return Drawn(rows, label, weight, negatives, present, samplers.columns.draw(rng), items[before])

    def _take_shard(self, whole: Drawn) -> Drawn:
        """Returns the worker's part of a batch: whole windows, whole users, or rows, and of the shared candidates."""
        if self._shard == WHOLE:
            return whole
        windows = whole.windows
        if windows is not None:
            own = self._shard.of(len(windows.first))
            rows = slice(*np.searchsorted(windows.window, [own.start, own.stop]))
            places = windows.window[rows] - own.start
            windows = WindowBatch(windows.first[own], windows.stop[own], places, windows.seen[rows])
        elif self._config.train.by_user:
            begins = np.append(_runs(whole.rows.users)[0], len(whole.rows))
            own = self._shard.of(len(begins) - 1)
            rows = slice(begins[own.start], begins[own.stop])
        else:
            rows = self._shard.of(len(whole.rows))
        return replace(whole.take(rows), windows=windows, shared=whole.shared[self._shard.of(len(whole.shared))])

    def _example(self, whole: Drawn, seed: list[int]) -> Example:
        rng = np.random.default_rng(seed)
        drawn = self._take_shard(whole)
        encoded, index = self._encoded, drawn.rows.index
        labels, weights = drawn.label[:, np.newaxis], drawn.weight[:, np.newaxis]
        x = self._loss_inputs(drawn, whole) | {candidates.SAMPLE_WEIGHT: weights}
        if by_user := self._config.train.by_user:
            first, x[candidates.USER_PLACES] = _runs(drawn.rows.users)
            index, labels, weights = index[first], labels[first], np.add.reduceat(weights, first)
        own_rng = rng if self._shard == WHOLE else np.random.default_rng([*seed, self._shard.index])
        users = encoded.user_batch("train", index, own_rng, without=self._sequences, own_too=by_user)
        rows = np.concatenate([drawn.rows.own, drawn.negatives.reshape(-1), drawn.shared])
        times = self._times(drawn, whole, rng) if encoded.varies else None
        if self._items_once:
            rows, times, x[two_tower.ITEM_PLACES] = _distinct(rows, times)
        if drawn.windows is not None:
            users |= self._window_values(drawn.windows)
        items = encoded.item_batch(rows, times)
        x |= {towers.input_name("user", key): np.ascontiguousarray(value) for key, value in users.items()}
        x |= {self._names["item"][key]: np.ascontiguousarray(value) for key, value in items.items()}
        if not self._config.loss.labelled:
            return x, labels, weights
        # For metrics: those of every candidate.
        y = np.zeros((len(index), 1 + drawn.negatives.shape[1], 1), np.float32)
        y[:, 0] = labels
        negatives = weights * drawn.present * self.samplers.rows.weights
        return x, y, np.concatenate([weights, negatives], axis=1).astype(np.float32)

    def _window_values(self, windows: WindowBatch) -> dict[str, np.ndarray]:
        """Returns the encoded sequences, and what each row has seen of them, by key of the user tower's tensors."""
        found: dict[str, np.ndarray] = {}
        for key in self._sequences:
            encoded, before = self._encoded.sequence_batch(key, windows.first, windows.stop)
            found |= encoded
            seen = before[windows.window, windows.seen]
            found[key + towers.PLACES] = np.stack([windows.window, seen], axis=1).astype(np.int32)
        return found

    def _times(self, drawn: Drawn, whole: Drawn, rng: np.random.Generator) -> Ints:
        """Returns the times of item values: the own items, the rows' negatives, then shared negatives.

        A row's negatives have the row's own time. Shared negatives have the times of positives, drawn at random, so
        that times distinguish positives from negatives as little as possible.
        """
        times = self._encoded.times("train", drawn.rows.index)
        of_all = times if drawn is whole else self._encoded.times("train", whole.rows.index)
        positives = of_all[whole.label == 1] if (whole.label == 1).any() else of_all
        shared = rng.choice(positives, len(whole.shared))[self._shard.of(len(whole.shared))]
        return np.concatenate([times, np.repeat(times, drawn.negatives.shape[1]), shared])

    def _loss_inputs(self, drawn: Drawn, whole: Drawn) -> dict[str, np.ndarray]:
        """Returns labels, or how the candidates were drawn, and what they weigh, as `registry.inputs` names them."""
        samplers, rows = self.samplers, drawn.rows
        inputs: dict[str, np.ndarray] = {}
        if samplers.rows.draws:
            inputs[candidates.NEGATIVE_WEIGHT] = drawn.present * samplers.rows.weights
        if self._config.loss.labelled:
            return inputs | {candidates.LABEL: drawn.label[:, np.newaxis]}
        if samplers.columns:
            columns = samplers.columns.items(whole.rows.own, whole.shared, whole.queued)
            mixed = len(whole.rows), len(whole.queued)
            own = samplers.columns.log_q(rows.own, *mixed)
            inputs[candidates.COLUMN_LOG_Q] = samplers.columns.log_q(columns, *mixed)[:, np.newaxis]
            meet = rows.take(_runs(rows.users)[0]) if self._config.train.by_user else rows
            inputs[candidates.HITS] = samplers.find_hits(meet, columns)
        else:
            own = samplers.rows.own_log_q(rows)
        if samplers.rows.draws:
            inputs[candidates.NEGATIVE_LOG_Q] = samplers.rows.log_q(rows, drawn.negatives, own)
        return inputs | {candidates.POSITIVE_LOG_Q: own[:, np.newaxis]}

    def signature(self) -> Any:
        """Returns the specs of a batch's tensors."""

        def spec(value: np.ndarray) -> tf.TensorSpec:
            # Widths of histories and tags differ from batch to batch; columns of ids and numbers do not.
            return tf.TensorSpec([None, *value.shape[1:]], value.dtype)

        x, y, weight = self._made(self._order(0), 0, 0)
        ragged = {name for side in self._names.values() for key, name in side.items() if key not in (IDS, NUMERIC)}
        specs = {
            name: tf.TensorSpec([None, None], tf.int32) if name in ragged else spec(value) for name, value in x.items()
        }
        return specs, spec(y), spec(weight)


def _runs(users: Ints) -> tuple[Ints, Items]:
    """Returns where each user's rows begin, `[users]`, and each row's user among them, int32 `[rows]`."""
    begins = np.diff(users, prepend=-1) != 0
    return np.flatnonzero(begins), (np.cumsum(begins) - 1).astype(np.int32)


def _distinct(rows: Items, times: Ints | None) -> tuple[Items, Ints | None, np.ndarray]:
    """Returns each item (as of each time) once, and where each of the given ones is among them, int32."""
    if times is None:
        distinct, places = np.unique(rows, return_inverse=True)
        return distinct, None, places.astype(np.int32)
    pairs, places = np.unique(np.stack([rows.astype(np.int64), times]), axis=1, return_inverse=True)
    return pairs[0].astype(np.int32), pairs[1], places.reshape(-1).astype(np.int32)


def pack_arrays(parts: Sequence[tf.Tensor], signature: Any) -> Any:
    """Returns a batch's tensors, which Python has made, in their structure and with what is known of their shapes."""
    specs = tf.nest.flatten(signature)
    shaped = [tf.ensure_shape(part, spec.shape) for part, spec in zip(parts, specs, strict=True)]
    return tf.nest.pack_sequence_as(signature, shaped)


def disable_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Disables tf.data's tuner of a dataset, which has nothing to choose here.

    The end of an iterator may wait for the tuner to wake, which sleeps twice as long each time, up to a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
