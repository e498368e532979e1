"""Statistics of what the samplers draw in some steps of an epoch, for samples.html and TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf_keras as keras

from twotower_tf.features.arrays import EncodedData
from twotower_tf.sampling.mixture import NO_ITEM
from twotower_tf.sampling.pairs import Ints, Mask
from twotower_tf.train.batches import Batches, Drawn
from twotower_tf.train.tower_vectors import item_vectors, user_vectors

POSITIVES, IN_BATCH, QUEUE = "positives", "InBatch", "Queue"

_COLUMNS_SEEN = 8  # of each kind of the whole batch, for each row
COSINE_EDGES = np.linspace(-1.0, 1.0, 41)


@dataclass(frozen=True)
class Kind:
    """What one kind gave.

    Attributes:
        places: `[draws]` which of the rows looked at each draw is for.
        items: `[draws]` catalogue rows.
        asked: draws asked for, those that the sampler had nothing for included.
        cosines: `[draws]` float32 of the row's user with the item, or None without a model.
    """

    places: Ints
    items: Ints
    asked: int
    cosines: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class View:
    """A look at an epoch's draws.

    Attributes:
        users: `[rows]` user rows of the positives looked at.
        own: `[rows]` their items.
        kinds: by name; the first, `positives`, are the rows' own items.
        counts: `[num_items]` training positives, of all runs.
        masked_share: of the places where rows meet the whole batch's candidates, those left out because the item is one
            of the user's positives, the row's own place apart; None without such candidates.
    """

    users: Ints
    own: Ints
    kinds: dict[str, Kind]
    counts: npt.NDArray[np.int64]
    masked_share: float | None

    def figures(self) -> dict[str, dict[str, float | int | None]]:
        """Returns per kind: draws, missing and cold share, quartiles of popularity, mean and quartiles of cosines."""
        return {name: _figures(kind, self.counts) for name, kind in self.kinds.items()}


def _figures(kind: Kind, counts: npt.NDArray[np.int64]) -> dict[str, float | int | None]:
    popularity = counts[kind.items]
    some = len(kind.items) > 0
    low, middle, high = np.quantile(popularity, (0.25, 0.5, 0.75)) if some else (None, None, None)
    figures: dict[str, float | int | None] = {
        "draws": len(kind.items),
        "missing_share": 1.0 - len(kind.items) / kind.asked if kind.asked else 0.0,
        "cold_share": float((popularity == 0).mean()) if some else None,
        "popularity_25": low,
        "popularity_50": middle,
        "popularity_75": high,
    }
    if kind.cosines is not None and some:
        quartiles = np.quantile(kind.cosines, (0.25, 0.5, 0.75))
        names = ("cosine_25", "cosine_50", "cosine_75")
        figures |= {"cosine_mean": float(kind.cosines.mean()), **dict(zip(names, map(float, quartiles), strict=True))}
    return figures


@dataclass
class _Collected:
    """Draws of one kind as they come, step by step."""

    places: list[Ints] = field(default_factory=list)
    items: list[Ints] = field(default_factory=list)
    asked: int = 0

    def add(self, places: Ints, items: Ints, taken: Mask) -> None:
        self.asked += items.size
        self.places.append(np.broadcast_to(places[:, np.newaxis], items.shape)[taken])
        self.items.append(items[taken])


def look(
    batches: Batches, encoded: EncodedData, model: Any = None, *, epoch: int = 0, rows: int = 4096, seed: int = 0
) -> View:
    """Repeats the draws of some steps of an epoch and collects them.

    Args:
        batches: of the training.
        encoded: the data.
        model: of `two_tower.build`, which computes the cosines; None for no cosines.
        epoch: counted from 0.
        rows: looked at, whole steps; of a step with more events the first ones.
        seed: of which candidates of the whole batch are looked at.
    """
    rng = np.random.default_rng(seed)
    index: list[Ints] = []
    kinds: dict[str, _Collected] = {POSITIVES: _Collected()}
    done, masked, met = 0, 0, 0
    for whole in _steps(batches, epoch, rows):
        drawn = whole.take(slice(max(0, rows - done)))
        positive = np.flatnonzero(drawn.label == 1)
        places = done + np.arange(len(positive))
        own = drawn.rows.own[positive][:, np.newaxis]
        kinds[POSITIVES].add(places, own, np.ones(own.shape, bool))
        first = 0
        for part in batches.samplers.rows.parts:
            span = slice(first, first + part.draws)
            items, present = drawn.negatives[positive, span], drawn.present[positive, span]
            kinds.setdefault(part.kind, _Collected()).add(places, items, present)
            first += part.draws
        if batches.samplers.columns:
            one, all_of_them = _look_at_columns(batches, drawn, places, kinds, rng)
            masked, met = masked + one, met + all_of_them
        index.append(drawn.rows.index[positive])
        done += len(positive)
    looked = np.concatenate(index)
    keys = encoded.keys("train")
    gathered = {name: _gather(kind) for name, kind in kinds.items()}
    if model is not None:
        gathered = _with_cosines(gathered, model, encoded, looked)
    share = masked / met if met else None
    return View(keys["user_row"][looked], keys["item_row"][looked], gathered, batches.samplers.counts, share)


def _steps(batches: Batches, epoch: int, rows: int) -> Iterator[Drawn]:
    """Steps of an epoch with `rows` rows in all, from where the queue is full, if it ever is."""
    size = batches.events
    wanted = min(batches.steps, max(1, int(rows // size)))
    full = math.ceil(batches.samplers.columns.queue / size)
    for number, (_, drawn) in enumerate(batches.drawn(epoch, min(full, batches.steps - wanted))):
        if number == wanted:
            return
        yield drawn


def _look_at_columns(
    batches: Batches, drawn: Drawn, places: Ints, kinds: dict[str, _Collected], rng: np.random.Generator
) -> tuple[int, int]:
    """Adds what rows meet of each kind of the whole batch; gives how many places are masked, and of how many."""
    columns, rows = batches.samplers.columns, drawn.rows
    items = columns.items(rows.own, drawn.shared, drawn.queued)
    found = batches.samplers.find_hits(rows, items)
    masked = np.zeros((len(rows), len(items)), bool)
    masked[found[:, 0], found[:, 1]] = True
    spans = [(IN_BATCH, len(rows) * columns.in_batch), *((part.kind, part.draws) for part in columns.parts)]
    first = 0
    for name, width in [*spans, (QUEUE, columns.queue)]:
        if not width:
            continue
        chosen = first + rng.integers(0, width, (len(rows), min(width, _COLUMNS_SEEN)))
        here = np.arange(len(rows))[:, np.newaxis]
        there = (items[chosen] != NO_ITEM) & ~((name == IN_BATCH) & (chosen == here))
        collected = kinds.setdefault(name, _Collected())
        collected.add(places, items[chosen], there & ~masked[here, chosen])
        first += width
    diagonal = len(rows) * columns.in_batch
    return len(found) - diagonal, len(rows) * int((items != NO_ITEM).sum()) - diagonal


def _gather(kind: _Collected) -> Kind:
    return Kind(np.concatenate(kind.places), np.concatenate(kind.items), kind.asked)


def _with_cosines(kinds: dict[str, Kind], model: Any, encoded: EncodedData, looked: Ints) -> dict[str, Kind]:
    users = user_vectors(model, encoded, "train", looked)
    known, place = np.unique(np.concatenate([kind.items for kind in kinds.values()]), return_inverse=True)
    items = item_vectors(model, encoded, known, at=encoded.ranking_time("train"))
    found: dict[str, Kind] = {}
    first = 0
    for name, kind in kinds.items():
        at = place[first : first + len(kind.items)]
        found[name] = Kind(kind.places, kind.items, kind.asked, np.einsum("nd,nd->n", users[kind.places], items[at]))
        first += len(kind.items)
    return found


class SamplingStats(keras.callbacks.Callback):
    """Writes what an epoch's samplers drew to TensorBoard."""

    def __init__(self, batches: Batches, encoded: EncodedData, logs: Path) -> None:
        super().__init__()
        self._batches = batches
        self._encoded = encoded
        self._writer = tf.summary.create_file_writer(str(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at some steps of the epoch with the model as it is now."""
        rows = 4096 if self._batches.batch_size == self._batches.events else 512  # each needs its history encoded
        view = look(self._batches, self._encoded, self.model, epoch=epoch, rows=rows)
        with self._writer.as_default():
            for name, figures in view.figures().items():
                for figure in ("missing_share", "cold_share", "popularity_50", "cosine_mean"):
                    if (value := figures.get(figure)) is not None:
                        tf.summary.scalar(f"sampling/{figure}/{name}", value, epoch)
            for name, kind in view.kinds.items():
                tf.summary.histogram(f"sampling/popularity/{name}", np.log1p(view.counts[kind.items]), epoch)
                tf.summary.histogram(f"sampling/cosine/{name}", kind.cosines, epoch)
        self._writer.flush()
