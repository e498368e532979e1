"""Several samplers at once, and the probability with which an item is drawn by any of them.

q(j) = Σ_k n_k p_k(j) / Σ_k n_k, where sampler k makes n_k of the draws and gives item j with probability p_k(j): the
balance heuristic of Veach and Guibas, "Optimally Combining Sampling Techniques for Monte Carlo Rendering" (SIGGRAPH
1995). The mean of f(j) / q(j) over the draws then estimates Σ_j f(j), whichever of them gave j.

Only draws from the whole catalogue estimate its sum. A hard negative is drawn from a few items, with a probability a
thousand times as large, and 1 / q would take away what it was drawn for. It is an example of its own, compared with the
positive as it is: its q is the positive's, and its weight says how much it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower_tf.sampling.catalogue_samplers import CatalogueSampler
from twotower_tf.sampling.pairs import Ints, Items, Mask
from twotower_tf.sampling.row_sampler import Floats, Rows, RowSampler

LogQ = npt.NDArray[np.float32]

NO_ITEM = -1


@dataclass(frozen=True)
class Part:
    """One kind's share of a mixture.

    Attributes:
        kind: what the configuration calls it.
        sampler: of its draws; a `CatalogueSampler` where q is corrected for.
        draws: how many it makes.
        weight: how much each of them counts in the loss.
    """

    kind: str
    sampler: RowSampler
    draws: int
    weight: float = 1.0


@dataclass(frozen=True)
class SharedPart:
    """One kind's share of what the whole batch is given; see `Part`."""

    kind: str
    sampler: CatalogueSampler
    draws: int


class RowMixture:
    """The negatives that belong to single rows.

    Attributes:
        parts: in the order in which their draws stand.
        draws: of all parts, for each row.
        weights: `[draws]` float32, how much each draw counts.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.draws = sum(part.draws for part in parts)
        counts = [part.draws for part in parts]
        self.weights = np.repeat(np.array([part.weight for part in parts], np.float32), counts)
        self._catalogue = [(part.sampler, part.draws) for part in parts if isinstance(part.sampler, CatalogueSampler)]
        self._corrected = np.repeat(
            np.array([isinstance(part.sampler, CatalogueSampler) for part in parts], bool), counts
        )

    def draw(self, rng: np.random.Generator, rows: Rows) -> tuple[Items, Mask]:
        """Draws for every row.

        Returns:
            Items `[batch, draws]` int32, and bool `[batch, draws]`: false where the sampler had nothing; the item there
            is the row's own.
        """
        items = np.repeat(rows.own[:, np.newaxis].astype(np.int32), self.draws, axis=1)
        present = np.zeros(items.shape, bool)
        first = 0
        for part in self.parts:
            some = part.sampler.available(rows)
            present[:, first : first + part.draws] = some[:, np.newaxis]
            if some.any():
                items[some, first : first + part.draws] = part.sampler.draw(rng, rows.take(some), part.draws)
            first += part.draws
        return items, present

    def log_q(self, rows: Rows, items: Ints, own: LogQ) -> LogQ:
        """Returns ln q of what `draw` gave, `[batch, draws]`: of a hard negative, the row's own item's.

        Args:
            rows: as for `draw`.
            items: of `draw`.
            own: `[batch]`, ln q of the rows' own items.
        """
        logs = np.repeat(own[:, np.newaxis], self.draws, axis=1)
        if self._catalogue:
            logs[:, self._corrected] = self._log(
                sampler.probability(rows, items[:, self._corrected]) * draws for sampler, draws in self._catalogue
            )
        return logs

    def own_log_q(self, rows: Rows) -> LogQ:
        """Returns ln q of the rows' own items, were they allowed like any other, `[batch]`.

        Beside hard negatives alone it is 0: nothing is corrected.
        """
        if not self._catalogue:
            return np.zeros(len(rows), np.float32)
        return self._log(sampler.own_probability(rows) * draws for sampler, draws in self._catalogue)

    def _log(self, parts: Iterable[Floats]) -> LogQ:
        logs: LogQ = np.log(sum(parts) / self._corrected.sum()).astype(np.float32)
        return logs


class Columns:
    """The candidates that every row of a batch meets: the batch's own items, shared draws, a queue of past items.

    Attributes:
        in_batch: whether the batch's own items are among them.
        parts: of the shared draws.
        shared: their number.
        queue: the queue's slots.
    """

    def __init__(self, share: Floats, in_batch: bool, parts: Sequence[SharedPart], queue: int) -> None:
        """Takes the kinds.

        Args:
            share: `[num_items]`, of the rows trained on in an epoch whose item it is: what comes as a row's own item,
                now or some steps ago, comes with this probability.
            in_batch: see the class.
            parts: see the class.
            queue: see the class.
        """
        self._share = share
        self.in_batch = in_batch
        self.parts = tuple(parts)
        self.shared = sum(part.draws for part in parts)
        self.queue = queue

    def __bool__(self) -> bool:
        return self.in_batch or bool(self.shared or self.queue)

    def draw(self, rng: np.random.Generator) -> Items:
        """`[shared]` int32 catalogue rows for the whole batch."""
        drawn = [part.sampler.propose(rng, part.draws) for part in self.parts]
        return np.concatenate(drawn).astype(np.int32) if drawn else np.empty(0, np.int32)

    def items(self, own: Ints, shared: Ints, before: Ints) -> Items:
        """All columns' items, `[columns]`: own, shared, then the queue, oldest first and filled from its end.

        Args:
            own: `[batch]` the batch's own items.
            shared: of `draw`.
            before: `[at most queue]` own items of the batches before, the newest last.
        """
        slots = np.full(self.queue, NO_ITEM, np.int32)
        slots[self.queue - len(before) :] = before
        return np.concatenate([own if self.in_batch else own[:0], shared, slots]).astype(np.int32)

    def log_q(self, items: Ints, batch: int, queued: int) -> LogQ:
        """Ln q of items under the mixture of all columns' kinds.

        Args:
            items: catalogue rows; -1, an empty slot of the queue, is given plus infinity.
            batch: rows of the batch.
            queued: slots of the queue that hold something.
        """
        asked = np.maximum(items, 0)
        as_own = batch * self.in_batch + queued
        q = as_own * self._share[asked]
        for part in self.parts:
            q += part.draws * part.sampler.shared_probability(asked)
        with np.errstate(divide="ignore"):
            logs = np.log(q / max(as_own + self.shared, 1))
        return np.where(items == NO_ITEM, np.inf, logs).astype(np.float32)
