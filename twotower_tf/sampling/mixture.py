"""Mixtures of samplers, and the probability that an item is drawn by any of them.

q(j) = Σ_k n_k p_k(j) / Σ_k n_k, where sampler k makes n_k of the draws and draws item j with probability p_k(j): the
balance heuristic of Veach and Guibas, "Optimally Combining Sampling Techniques for Monte Carlo Rendering" (SIGGRAPH
1995). The mean of f(j) / q(j) over all draws is an unbiased estimate of Σ_j f(j), whichever sampler drew j.

Only draws from the whole catalogue estimate its sum. A hard negative is drawn from a few items with a much larger
probability, and a correction by 1 / q would cancel its effect. It is not corrected: its q is that of the positive, and
its weight is configured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower_tf.sampling.catalogue_samplers import CatalogueSampler
from twotower_tf.sampling.pairs import Ints, Items, Mask
from twotower_tf.sampling.row_sampler import Floats, PositivesBatch, RowSampler

LogQ = npt.NDArray[np.float32]

NO_ITEM = -1


@dataclass(frozen=True)
class Part:
    """One component of a mixture.

    Attributes:
        kind: name of the configuration class.
        sampler: the sampler; a `CatalogueSampler` if q is corrected for.
        draws: number of draws per row.
        weight: weight of each draw in the loss.
    """

    kind: str
    sampler: RowSampler
    draws: int
    weight: float = 1.0


@dataclass(frozen=True)
class SharedPart:
    """One component of the draws shared by the batch; see `Part`."""

    kind: str
    sampler: CatalogueSampler
    draws: int


class RowMixture:
    """The negatives drawn for each row.

    Attributes:
        parts: the components, in the order of their draws.
        draws: number of draws per row, of all parts.
        weights: `[draws]` float32, the weight of each draw.
    """

    def __init__(self, parts: Sequence[Part], log_available: Floats | None = None) -> None:
        """Stores the components, and what is added to each item's logit, `[num_items]`; see `sampling.availability`."""
        self.parts = tuple(parts)
        self._log_available = log_available
        self.draws = sum(part.draws for part in parts)
        counts = [part.draws for part in parts]
        self.weights = np.repeat(np.array([part.weight for part in parts], np.float32), counts)
        self._catalogue = [(part.sampler, part.draws) for part in parts if isinstance(part.sampler, CatalogueSampler)]
        self._corrected = np.repeat(
            np.array([isinstance(part.sampler, CatalogueSampler) for part in parts], bool), counts
        )

    def draw(self, rng: np.random.Generator, rows: PositivesBatch) -> tuple[Items, Mask]:
        """Draws for every row.

        Returns:
            Items `[batch, draws]` int32, and a mask bool `[batch, draws]`: false where the sampler had no item, or one
            that is not available, in which case the row's own item is in its place.
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
        if self._log_available is not None:
            present &= np.isfinite(self._log_available[items])
            items = np.where(present, items, rows.own[:, np.newaxis]).astype(np.int32)
        return items, present

    def log_q(self, rows: PositivesBatch, items: Ints, own: LogQ) -> LogQ:
        """Returns ln q of what `draw` returned, `[batch, draws]`; of a hard negative it is that of the row's own item.

        `own` is ln q of the rows' own items, `[batch]`.
        """
        logs = np.repeat(own[:, np.newaxis], self.draws, axis=1)
        if self._catalogue:
            logs[:, self._corrected] = self._log(
                sampler.probability(rows, items[:, self._corrected]) * draws for sampler, draws in self._catalogue
            ) - _take(self._log_available, items[:, self._corrected])
        return logs

    def own_log_q(self, rows: PositivesBatch) -> LogQ:
        """Returns ln q of the rows' own items if they were not excluded, `[batch]`.

        It is 0 if there are hard negatives only, which are not corrected.
        """
        if not self._catalogue:
            return np.zeros(len(rows), np.float32)
        logs = self._log(sampler.own_probability(rows) * draws for sampler, draws in self._catalogue)
        return logs - _take(self._log_available, rows.own)

    def _log(self, parts: Iterable[Floats]) -> LogQ:
        logs: LogQ = np.log(sum(parts) / self._corrected.sum()).astype(np.float32)
        return logs


class SharedCandidates:
    """The candidates shared by all rows of a batch: the batch's own items, shared draws, a queue of past items.

    They are the columns of the batch's matrix of logits.

    Attributes:
        in_batch: whether the batch's own items are candidates.
        parts: the components of the shared draws.
        shared: the number of shared draws.
        queue: the number of slots of the queue.
    """

    def __init__(
        self,
        share: Floats,
        in_batch: bool,
        parts: Sequence[SharedPart],
        queue: int,
        log_available: Floats | None = None,
    ) -> None:
        """Stores the components, and the share of each item among the rows of an epoch, `[num_items]`.

        The share is the probability that an item is a row's own, in this batch or an earlier one. `log_available`,
        `[num_items]`, is added to each item's logit; see `sampling.availability`.
        """
        self._share = share
        self._log_available = log_available
        self.in_batch = in_batch
        self.parts = tuple(parts)
        self.shared = sum(part.draws for part in parts)
        self.queue = queue

    def __bool__(self) -> bool:
        return self.in_batch or bool(self.shared or self.queue)

    def draw(self, rng: np.random.Generator) -> Items:
        """Draws `[shared]` int32 catalogue rows for the whole batch."""
        drawn = [part.sampler.propose(rng, part.draws) for part in self.parts]
        return np.concatenate(drawn).astype(np.int32) if drawn else np.empty(0, np.int32)

    def items(self, own: Ints, shared: Ints, before: Ints) -> Items:
        """Returns the candidates' items `[columns]`: own, shared, then the queue, oldest first, filled from its end.

        `before` are the own items of the previous batches, `[at most queue]`, the newest last.
        """
        slots = np.full(self.queue, NO_ITEM, np.int32)
        slots[self.queue - len(before) :] = before
        return np.concatenate([own if self.in_batch else own[:0], shared, slots]).astype(np.int32)

    def log_q(self, items: Ints, batch: int, queued: int) -> LogQ:
        """Returns ln q of items under the mixture of all components, less the log of their availability.

        Of -1, an empty slot of the queue, and of an item that is not available it is infinity.
        The batch has `batch` rows, and `queued` slots of the queue are filled.
        """
        known = np.maximum(items, 0)
        as_own = batch * self.in_batch + queued
        q = as_own * self._share[known]
        for part in self.parts:
            q += part.draws * part.sampler.shared_probability(known)
        with np.errstate(divide="ignore"):
            logs = np.log(q / max(as_own + self.shared, 1))
        logs = logs - _take(self._log_available, known)
        return np.where(items == NO_ITEM, np.inf, logs).astype(np.float32)


def _take(log_available: Floats | None, items: Ints) -> LogQ:
    """Returns the log of the availability of items, in their shape."""
    found = np.zeros(items.shape) if log_available is None else log_available[items]
    return found.astype(np.float32)
