"""Approximate search with ScaNN (Guo et al., 2020: anisotropic vector quantization).

ScaNN pads missing neighbours with row 0 and a NaN score, and aborts the process on what it cannot read. So vectors are
checked before it sees them, files before it opens them, and a padded answer is replaced by an exact one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from twotower_tf.errors import ArtifactError, ConfigError
from twotower_tf.index import files, topk, tuning
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.items import ItemVectors
from twotower_tf.index.searcher import Neighbours, check_queries

if TYPE_CHECKING:
    from types import ModuleType

MIN_ITEMS = 16  # a quantizer block has 16 centres, each wants a training point

_ASSETS = "scann"
_DATASET = "scann/dataset.npy"  # ScaNN's own float32 copy, row by row the vectors as given
_TRAINING_SAMPLE = 250_000
_DIMENSIONS_PER_BLOCK = 2
_ANISOTROPIC_THRESHOLD = 0.2
_PARALLEL_BATCH = 64  # queries that a ScaNN thread takes at a time

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
    """

    leaves: int
    leaves_to_search: int
    reorder: int
    k: int
    dimensions_per_block: int = _DIMENSIONS_PER_BLOCK
    anisotropic_threshold: float = _ANISOTROPIC_THRESHOLD


class ScannSearcher:
    """A tuned ScaNN index and the vectors it was built from."""

    kind = "scann"

    def __init__(
        self, items: ItemVectors, native: Any, parameters: ScannParameters, recall: dict[str, Any], threads: int = 0
    ) -> None:
        """Keeps a built index; `build` and `read` make one.

        Args:
            items: what is searched.
            native: ScaNN's searcher over the same rows.
            parameters: how it is searched.
            recall: {"k", "target", "measured", "queries", "curve"} of the tuning.
            threads: that answer one call at most; 0 is one per core.
        """
        self.items = items
        self.parameters = parameters
        self.recall = recall
        self._native = native
        self._exact = ExactSearcher(items, threads)
        native.set_num_threads(self._exact.threads)

    @classmethod
    def build(
        cls, items: ItemVectors, k: int, target_recall: float, sample_queries: Floats, threads: int = 0
    ) -> ScannSearcher:
        """Builds an index and tunes it to a recall against exact search.

        Args:
            items: at least 16.
            k: answers at which recall is measured; all items where there are fewer.
            target_recall: recall@k to reach.
            sample_queries: [num_queries, vector_dim] float32, unit length, like those to come.
            threads: for building, tuning and answering; 0 is one per core.

        Raises:
            ConfigError: where ScaNN is not installed or there are fewer than 16 items.
        """
        if len(items) < MIN_ITEMS:
            raise ConfigError(
                f"index.kind: scann needs at least {MIN_ITEMS} items to train its quantizer; the catalogue has "
                f"{len(items)}; use kind='exact' or 'auto'"
            )
        try:
            scann = _library()
        except ImportError as error:
            raise ConfigError(
                f"index.kind: scann is asked for and cannot be imported ({error}); pip install scann (Linux), "
                "or use kind='exact'"
            ) from None
        k = min(k, len(items))
        queries = check_queries(sample_queries, k, items.dim)[: tuning.SAMPLES]
        leaves = max(1, round(float(np.sqrt(len(items)))))
        native = _build_native(scann, items.vectors, k, leaves, topk.available_threads(threads))
        untuned = cls(items, native, ScannParameters(leaves, leaves, len(items), k), {}, threads)
        truth = untuned._exact.search(queries, k).scores
        tuned = tuning.tune(
            lambda leaves_to_search, reorder: untuned._ask(queries, k, leaves_to_search, reorder)[1],
            truth,
            len(items),
            leaves,
            target_recall,
        )
        parameters = ScannParameters(leaves, tuned.leaves_to_search, tuned.reorder, k)
        recall = {"k": k, "target": target_recall, "queries": len(queries), "curve": tuned.curve}
        built = cls(items, native, parameters, recall, threads)
        # Of the answers as they are given, short ones completed: with few leaves that is more than ScaNN's own.
        answered = tuning.recall_of(built.search(queries, k).scores, truth)
        recall["measured"] = round(float(answered.mean(dtype=np.float64)), 6)
        return built

    def search(self, queries: npt.ArrayLike, k: int) -> Neighbours:
        """See `Searcher.search`."""
        table = check_queries(queries, k, self.items.dim)
        k = min(k, len(self.items))
        rows, scores = self._ask(table, k, *self._setting(k))
        short = np.flatnonzero(np.isneginf(scores).any(axis=1))
        if len(short):
            exact = self._exact.search(table[short], k)
            rows[short], scores[short] = exact.rows, exact.scores
        return Neighbours(rows, self.items.ids[rows], scores)

    def _setting(self, k: int) -> tuple[int, int]:
        """The tuned setting, widened in proportion for more answers than it was tuned for."""
        tuned, factor = self.parameters, max(1.0, k / self.parameters.k)
        leaves = min(tuned.leaves, int(np.ceil(tuned.leaves_to_search * factor)))
        return leaves, min(len(self.items), max(k, int(np.ceil(tuned.reorder * factor))))

    def _ask(self, queries: Floats, k: int, leaves_to_search: int, reorder: int) -> tuple[Rows, Floats]:
        """ScaNN's answer in our order: best first, ties by row; score -inf where a neighbour is missing."""
        if not len(queries):
            return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
        if len(queries) > _PARALLEL_BATCH and self._exact.threads > 1:
            found = self._native.search_batched_parallel(queries, k, reorder, leaves_to_search, _PARALLEL_BATCH)
        else:
            found = self._native.search_batched(queries, k, reorder, leaves_to_search)
        rows, scores = found[0].astype(np.int32), np.where(np.isnan(found[1]), np.float32(-np.inf), found[1])
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def description(self) -> dict[str, Any]:
        """See `Searcher.description`."""
        parameters = asdict(self.parameters)
        return {**files.describe(self.kind, self.items), "parameters": parameters, "recall": self.recall}

    def save(self, directory: Path) -> None:
        """Writes ScaNN's files under scann/ with relative paths, item_ids, then index.json."""
        (directory / _ASSETS).mkdir(parents=True, exist_ok=True)
        self._native.serialize(str(directory / _ASSETS), relative_path=True)
        files.finish(directory, self.items, self.description())

    @classmethod
    def read(cls, directory: Path, document: dict[str, Any], threads: int = 0) -> ScannSearcher:
        """Reads what `save` wrote; `load` has checked the files.

        Raises:
            ArtifactError: where ScaNN is not installed.
        """
        try:
            scann = _library()
        except ImportError as error:
            raise ArtifactError(
                f"{directory}: an index of kind scann needs the package scann, which cannot be imported ({error})"
            ) from None
        items = files.restore(directory, np.load(directory / _DATASET, mmap_mode="r", allow_pickle=False))
        native = scann.load_searcher(str(directory / _ASSETS), assets_backcompat_shim=False)
        return cls(items, native, ScannParameters(**document["parameters"]), document["recall"], threads)


def _library() -> ModuleType:
    """ScaNN, imported late: it brings TensorFlow's library with it."""
    from scann import scann_ops_pybind  # type: ignore[import-untyped,unused-ignore]

    module: ModuleType = scann_ops_pybind
    return module


def _build_native(scann: Any, vectors: Floats, k: int, leaves: int, threads: int) -> Any:
    sample = min(len(vectors), _TRAINING_SAMPLE)
    builder = scann.builder(vectors, k, "dot_product").set_n_training_threads(threads)
    builder = builder.tree(leaves, leaves, training_sample_size=sample)
    builder = builder.score_ah(
        min(_DIMENSIONS_PER_BLOCK, vectors.shape[1]),
        anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD,
        training_sample_size=sample,
    )
    return builder.reorder(k).build()
