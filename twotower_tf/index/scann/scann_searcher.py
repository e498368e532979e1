"""Approximate search with ScaNN (Guo et al., 2020: anisotropic vector quantization).

ScaNN pads missing neighbours with row 0 and a NaN score, and aborts the process on what it cannot read. So vectors are
checked before it sees them, files before it opens them, and a padded answer is replaced by an exact one.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.config import IndexConfig
from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.index import index_files, topk
from twotower_tf.index.eligible import Eligible, Ineligible
from twotower_tf.index.exact import SCORE_BYTES, ExactSearcher
from twotower_tf.index.index_files import NEW, Memory, Stored
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.index.scann import fetch_levels, recall_plot, scann_build, scann_search_space, tuning
from twotower_tf.index.scann.fetch_levels import Level
from twotower_tf.index.scann.scann_build import Shape
from twotower_tf.index.searcher import Answers, Neighbours, check_queries

MIN_ITEMS = 16  # a quantizer block has 16 centres, each wants a training point

ASSETS = "scann"  # directory of what ScaNN serialized
_CURVE = "recall_curve.svg"
_TRAINING_COPIES = 3  # of ScaNN's training sample: as it is, less its partition's centre, and what is made of them
_TRAINING_SAMPLE = 250_000
_STALE = 0.3  # share of items changed since the settings were tuned, above which they are tuned again
_FACTORS = (1.0, 1.25, 1.6, 2.0)  # by which an index that is trained again is searched wider to reach its recall
_UPDATE_QUERIES = 256  # that its recall is measured with: the error is below 0.003 where it is 0.95
_LEVEL_ERROR = 0.01  # of a recall measured with these queries, at the last ranks
# In items scored exactly, among many: a quantized one, one re-scored out of order, and a partition's centre.
_QUANTIZED, _REORDERED, _CENTRE = 0.5, 32.0, 1.0

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ScannParameters:
    """How the index was built and how it is searched.

    Attributes:
        leaves: partitions of the items.
        leaves_to_search: partitions searched for each query.
        reorder: candidates of the quantized search whose score is computed exactly.
        k: the number of answers that leaves_to_search and reorder were tuned for.
        dimensions_per_block: of the quantizer.
        anisotropic_threshold: of the quantizer's loss.
        trained_on: items that these settings were tuned for.
        changed_since: items added, changed or removed since.
        wider: settings for more answers than k, ascending.
    """

    leaves: int
    leaves_to_search: int
    reorder: int
    k: int
    dimensions_per_block: int
    anisotropic_threshold: float
    trained_on: int
    changed_since: int = 0
    wider: tuple[Level, ...] = ()

    @classmethod
    def of(cls, document: dict[str, Any]) -> ScannParameters:
        """Reads `description`; an index of schema version 2 has none that are wider."""
        return cls(**{**document, "wider": tuple(Level(**each) for each in document.get("wider", ()))})

    def description(self) -> dict[str, Any]:
        """Returns the parameters as JSON."""
        return {**asdict(self), "wider": [asdict(level) for level in self.wider]}

    @property
    def levels(self) -> tuple[Level, ...]:
        """All settings, by the number of items that they fetch."""
        return (Level(self.k, self.leaves_to_search, self.reorder), *self.wider)

    def widened(self, factor: float, size: int) -> ScannParameters:
        """Returns all levels searched wider by a factor, over `size` items, without those that fetch every item."""

        def widen(level: Level) -> Level:
            leaves = min(self.leaves, math.ceil(level.leaves_to_search * factor))
            return Level(level.fetch, leaves, min(size, math.ceil(level.reorder * factor)))

        first, *above = map(widen, self.levels)
        return replace(
            self,
            leaves_to_search=first.leaves_to_search,
            reorder=first.reorder,
            wider=tuple(level for level in above if level.fetch < size),
        )


class ScannSearcher:
    """A tuned ScaNN index and the vectors it was built from."""

    kind = "scann"
    exact = False
    vectors_file = "scann/dataset.npy"  # ScaNN's own float32 copy, row by row the vectors as given
    library = "scann"
    share_threads = True
    vector_copies = 3  # as given, ScaNN's, and what is quantized of them

    def __init__(
        self,
        items: ItemVectors,
        native: Any,
        parameters: ScannParameters,
        recall: dict[str, Any],
        threads: int = 0,
    ) -> None:
        """Keeps ScaNN's searcher over the same rows, its parameters and the recall of its tuning."""
        self.items = items
        self.parameters = parameters
        self.recall = recall
        self._native = native
        self._exact = ExactSearcher(items, threads)
        native.set_num_threads(self._exact.threads)

    @classmethod
    def available(cls, size: int) -> bool:
        """See `Backend.available`."""
        return size >= MIN_ITEMS and importlib.util.find_spec(cls.library) is not None

    @classmethod
    def memory(cls, size: int, dim: int, threads: int) -> Memory:
        """See `Backend.memory`."""
        vectors = 4 * size * dim
        quantized = size * (dim // 2 + 12)  # half a byte for each dimension; partition and place of each item
        training = 4 * dim * (_TRAINING_COPIES * min(size, _TRAINING_SAMPLE) + tuning.SAMPLES)
        # ScaNN keeps a copy of the vectors. A loaded index has that one; what is mapped of the file may leave memory.
        answer = vectors + quantized + size * index_files.ID_BYTES + threads * SCORE_BYTES
        return Memory(build=answer + vectors + training, answer=answer)

    @classmethod
    def build(cls, items: ItemVectors, index: IndexConfig, queries: Floats, threads: int = 0) -> ScannSearcher:
        """Builds and tunes an index. See `Backend.build`."""
        if len(items) < MIN_ITEMS:
            raise ConfigError(
                f"index.kind: scann needs at least {MIN_ITEMS} items to train its quantizer; the catalogue has "
                f"{len(items)}; use kind='exact' or 'auto'"
            )
        try:
            scann_build.import_scann()
        except ImportError as error:
            raise ConfigError(
                f"index.kind: scann cannot be imported ({error}); pip install scann (Linux), or use kind='exact'"
            ) from None
        k, target_recall = min(index.k, len(items)), index.target_recall
        queries = check_queries(queries, k, items.dim)[: tuning.SAMPLES]
        threads = topk.available_threads(threads)
        shape, tried = scann_search_space.choose(items.vectors, queries, k, target_recall, threads)
        built = scann_build.build(items.vectors, k, shape, threads)
        truth = ExactSearcher(items, threads).search(queries, k).scores
        found = tuning.tune(
            lambda leaves, reorder: scann_build.search_batch(built, queries, k, leaves, reorder, threads)[1],
            truth,
            len(items),
            shape.leaves,
            target_recall,
        )
        parameters = ScannParameters(
            leaves=shape.leaves,
            leaves_to_search=found.leaves_to_search,
            reorder=found.reorder,
            k=k,
            dimensions_per_block=shape.dimensions_per_block,
            anisotropic_threshold=shape.anisotropic_threshold,
            trained_on=len(items),
        )
        recall = {"k": k, "target": target_recall, "queries": len(queries), "curve": found.curve, "shapes": tried}
        searcher = cls(items, built, parameters, recall, threads)
        # Of the answers as they are given, short ones completed: with few leaves that is more than ScaNN's own.
        answered = tuning.compute_recall(searcher.search(queries, k).scores, truth)
        recall["measured"] = round(float(answered.mean(dtype=np.float64)), 6)
        searcher._tune_levels(queries, target_recall)
        return searcher

    @classmethod
    def update(
        cls,
        old: Stored,
        items: ItemVectors,
        origin: npt.NDArray[np.int64],
        index: IndexConfig,
        queries: Floats,
        threads: int = 0,
    ) -> ScannSearcher | None:
        """Puts the changed items into the index; where that misses its recall, trains it again with its tuned settings.

        See `Backend.update`. None where too much has changed since the tuning, or no wider search reaches the recall.
        """
        before = ScannParameters.of(old.document["parameters"])
        changed = len(origin) + len(old.vectors) - 2 * int(np.count_nonzero(origin != NEW))
        parameters = replace(before, changed_since=before.changed_since + changed)
        if len(items) < MIN_ITEMS or parameters.changed_since > _STALE * before.trained_on:
            return None
        stated = old.document["recall"]
        k, wanted = min(int(stated["k"]), len(items)), min(float(stated["target"]), float(stated["measured"]))
        queries, threads = tuning.sample(queries, _UPDATE_QUERIES), topk.available_threads(threads)
        truth: Floats | None = None
        for native, factor in _updated_natives(old, items, origin, before, threads):
            recall = {**stated, "k": k, "queries": len(queries)}
            searcher = cls(items, native, parameters.widened(factor, len(items)), recall, threads)
            scores, truth = searcher.search_levels(queries, truth)
            found = tuning.compute_recall(scores[0], truth[:, :k]).astype(np.float64)
            recall["measured"] = round(float(found.mean()), 6)
            if recall["measured"] + float(found.std()) / math.sqrt(len(found)) >= wanted:  # within the sample's error
                searcher.keep_levels(scores, truth, wanted)
                return searcher
        return None

    def keep_levels(self, scores: Sequence[Floats], truth: Floats, target: float) -> None:
        """States the recall of the levels, and drops the first above k that misses the target with those above it.

        For as many answers every item is scored instead. Scores are those of `search_levels`.
        """
        levels = self._describe_levels(scores, truth)
        kept = 1
        while kept < len(levels) and levels[kept]["recall_excluded"] >= target - _LEVEL_ERROR:
            kept += 1
        self.parameters = replace(self.parameters, wider=self.parameters.wider[: kept - 1])
        self.recall["levels"] = levels[:kept]

    def _tune_levels(self, queries: Floats, target: float) -> None:
        """Tunes and states what is searched for more answers than k, as far as that is less than scoring all items."""
        wider = fetch_levels.tune(
            lambda asked, fetch, leaves, reorder: scann_build.search_batch(
                self._native, asked, fetch, leaves, reorder, self._exact.threads
            )[1],
            self._exact,
            queries,
            self.parameters.levels[0],
            self.parameters.leaves,
            target,
            lambda level: self._effort(level) < len(self.items),
        )
        self.parameters = replace(self.parameters, wider=tuple(wider))
        sample = tuning.sample(queries, fetch_levels.QUERIES)
        self.recall["levels"] = self._describe_levels(*self.search_levels(sample))

    def search_levels(self, queries: Floats, truth: Floats | None = None) -> tuple[list[Floats], Floats]:
        """Searches at each level.

        Args:
            queries: [num_queries, vector_dim] float32.
            truth: the result's second part, if it is known.

        Returns:
            By level, the scores [num_queries, fetch] found, and those of exact search for the last level's fetch.
        """
        found = [self.search(queries, level.fetch).scores for level in self.parameters.levels]
        if truth is None:
            truth = self._exact.best_scores(queries, found[-1].shape[1], found[-1][:, -1])
        return found, truth

    def _describe_levels(self, scores: Sequence[Floats], truth: Floats) -> list[dict[str, Any]]:
        """Measures each level's recall, see `fetch_levels`, by scores of `search_levels`."""
        return [fetch_levels.describe_level(each, truth[:, : each.shape[1]], self.parameters.k) for each in scores]

    def search(self, queries: npt.ArrayLike, k: int) -> Neighbours:
        """See `Searcher.search`."""
        table = check_queries(queries, k, self.items.dim)
        k = min(k, len(self.items))
        level = next((level for level in self.parameters.levels if level.fetch >= k), None)
        if level is None:
            return self._exact.search(table, k)
        reorder = min(len(self.items), level.reorder)
        rows, scores = scann_build.search_batch(
            self._native, table, k, level.leaves_to_search, reorder, self._exact.threads
        )
        short = np.flatnonzero(np.isneginf(scores[:, -1])) if len(table) else np.empty(0, np.int64)
        if len(short):
            exact = self._exact.search(table[short], k)
            rows[short], scores[short] = exact.rows, exact.scores
        return Neighbours(rows, scores, self.items)

    @property
    def stated_k(self) -> int:
        """See `Searcher.stated_k`."""
        return self.parameters.k

    def fetches(self, passing: int) -> Sequence[int]:
        """See `Searcher.fetches`."""
        levels = self.parameters.levels
        return [level.fetch for level in levels if level.fetch < len(self.items) and self._effort(level) < passing]

    def _effort(self, level: Level) -> float:
        """Estimates a search's cost, in items scored exactly: fitted to a million vectors of 64 dimensions."""
        scanned = len(self.items) * level.leaves_to_search / self.parameters.leaves
        return _QUANTIZED * scanned + _REORDERED * level.reorder + _CENTRE * self.parameters.leaves

    def scan(self, queries: npt.ArrayLike, k: int, excluded: Ineligible, allowed: Eligible | None = None) -> Answers:
        """See `Searcher.scan`."""
        return self._exact.scan(queries, k, excluded, allowed)

    def description(self) -> dict[str, Any]:
        """See `Searcher.description`."""
        parameters = self.parameters.description()
        return {**index_files.describe(self.kind, self.items), "parameters": parameters, "recall": self.recall}

    def save(self, directory: Path) -> None:
        """Writes ScaNN's files under scann/ with relative paths, a plot of the recall, item_ids, index.json."""
        (directory / ASSETS).mkdir(parents=True, exist_ok=True)
        self._native.serialize(str(directory / ASSETS), relative_path=True)
        (directory / _CURVE).write_text(recall_plot.draw(self.recall, asdict(self.parameters)), encoding="utf-8")
        index_files.finish(directory, self.items, self.description())

    @classmethod
    def read(cls, directory: Path, document: dict[str, Any], threads: int = 0) -> ScannSearcher:
        """See `Backend.read`."""
        try:
            native = scann_build.load(directory / ASSETS)
        except ImportError as error:
            raise ArtifactError(
                f"{directory}: an index of kind scann needs the package scann, which cannot be imported ({error})"
            ) from None
        items = index_files.restore(directory, index_files.load_array(directory / cls.vectors_file, mapped=True))
        return cls(items, native, ScannParameters.of(document["parameters"]), document["recall"], threads)


def _updated_natives(
    old: Stored, items: ItemVectors, origin: npt.NDArray[np.int64], before: ScannParameters, threads: int
) -> Iterator[tuple[Any, float]]:
    """Yields ScaNN's searchers of a changed catalogue, each with a factor by which it is searched wider.

    First the one before with the changed items put in, then one that is trained again.
    """
    yield scann_build.change(old.directory / ASSETS, items.vectors, origin), 1.0
    shape = Shape(before.leaves, before.anisotropic_threshold, before.dimensions_per_block)
    native = scann_build.build(items.vectors, min(before.k, len(items)), shape, threads)
    for factor in _FACTORS:
        yield native, factor
