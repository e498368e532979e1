"""The index backends, by name: building, reading and updating an index, and the memory that it takes.

A backend is a class with the methods of `Searcher` and of `Backend`. To add one, write its module and either list it in
`_BACKENDS` below and in `twotower_tf.config.index_kinds` or, from another package, decorate the class with
`register_backend` and name it in an entry point of the group `twotower_tf.index_backends`. Processes that read a bundle
(`verify`, scoring's workers) load the entry point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from twotower_tf.config import IndexConfig
from twotower_tf.config.index_kinds import AUTO, add_index_kind, check_index_kind
from twotower_tf.errors import ArtifactError
from twotower_tf.index import index_files, topk
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.index_files import Memory, Stored
from twotower_tf.index.item_vectors import Ids, ItemVectors, duplicate_vectors
from twotower_tf.index.scann.scann_searcher import ScannSearcher
from twotower_tf.index.scann.tuning import SAMPLES
from twotower_tf.index.searcher import Searcher

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Backend(Protocol):
    """What a backend's class offers, apart from the methods of its searchers.

    Attributes:
        kind: its name in `IndexConfig.kind` and in manifests.
        exact: whether its answers are exact. Otherwise its description states {"k", "queries", "target", "measured"}
            as "recall".
        vectors_file: the file in an index's directory that holds the vectors, .npy, [items, vector_dim] float32.
        library: the package that it needs, whose version manifests state, or "".
        share_threads: whether many threads answer from one searcher faster than several processes from one each.
        vector_copies: how often the vectors are in the memory of a process that answers.
    """

    kind: str
    exact: bool
    vectors_file: str
    library: str
    share_threads: bool
    vector_copies: int

    def available(self, size: int) -> bool:
        """Returns whether it is installed, and can hold `size` items."""

    def build(self, items: ItemVectors, index: IndexConfig, queries: Floats, threads: int) -> Searcher:
        """Builds a searcher.

        Args:
            items: what is searched.
            index: k and target recall.
            queries: [num_queries, vector_dim] float32, at least one, that recall is measured with.
            threads: for building and answering; 0 is one per core.

        Raises:
            ConfigError: where it is not installed or cannot hold so many items.
        """

    def read(self, directory: Path, document: dict[str, Any], threads: int) -> Searcher:
        """Reads what its searcher's `save` wrote; checksums, type and shape of the vectors were checked.

        Args:
            directory: of the index.
            document: the content of index.json.
            threads: that answer one call at most; 0 is one per core.

        Raises:
            ArtifactError: where it is not installed or a file is damaged.
        """

    def update(
        self, old: Stored, items: ItemVectors, origin: Rows, index: IndexConfig, queries: Floats, threads: int
    ) -> Searcher | None:
        """Makes the searcher of a changed catalogue with the settings of the one before.

        Args:
            old: the index before, of this kind.
            items: the new catalogue.
            origin: [items] int64, the row of `old` with the same vector, or NEW.
            index: k and target recall.
            queries: as in `build`.
            threads: as in `build`.

        Returns:
            The searcher; None where those settings do not do: then `build` makes one.
        """

    def memory(self, size: int, dim: int, threads: int) -> Memory:
        """Estimates the memory of an index over `size` vectors [size, dim] float32."""


BackendT = TypeVar("BackendT", bound=Backend)
_BACKENDS: dict[str, Backend] = {"exact": ExactSearcher, "scann": ScannSearcher}


def register_backend(backend: BackendT) -> BackendT:
    """Registers a backend's class under its `kind`; usable as a decorator."""
    _BACKENDS[backend.kind] = backend
    add_index_kind(backend.kind, backend.exact)
    return backend


def get_backend(kind: str) -> Backend:
    """Returns the backend of a name.

    Raises:
        ConfigError: for a name that none is registered under.
    """
    return _BACKENDS[check_index_kind(kind)]


def backend_libraries() -> list[str]:
    """Returns the names of the packages that registered backends need."""
    return [backend.library for backend in _BACKENDS.values() if backend.library]


def choose_kind(size: int, index: IndexConfig) -> str:
    """Returns the kind of index for a catalogue of `size` items."""
    if index.kind != AUTO:
        return index.kind
    large = size > index.exact_below and ScannSearcher.available(size)
    return ScannSearcher.kind if large else ExactSearcher.kind


def build_index(
    ids: Sequence[str] | Ids,
    vectors: npt.ArrayLike,
    index: IndexConfig,
    sample_queries: npt.ArrayLike | None = None,
    threads: int = 0,
    report: Callable[[str], object] = lambda line: None,
) -> Searcher:
    """Checks the items and builds an index over them.

    Args:
        ids: [num_items] text, distinct.
        vectors: [num_items, vector_dim] float32, unit length.
        index: kind and target. "auto" is exact up to `exact_below` items, and where ScaNN is not installed.
        sample_queries: [num_queries, vector_dim] float32, real user vectors that recall is measured with; without
            any, item vectors stand in for them.
        threads: for building and answering; 0 is one per core.
        report: called with a line on the memory that the index will take, and with one on items with equal vectors.

    Raises:
        DataError: for items that no index can hold, by id.
        ConfigError: where the backend is not installed or cannot hold so many items.
    """
    items = ItemVectors(ids, vectors)
    kind = choose_kind(len(items), index)
    backend = get_backend(kind)
    memory = backend.memory(len(items), items.dim, topk.available_threads(threads))
    report(f"index: {kind}, {len(items):,} items of {items.dim} dimensions: {memory}")
    _report_duplicates(items, report)
    return backend.build(items, index, _queries(items, sample_queries), threads)


def _queries(items: ItemVectors, users: npt.ArrayLike | None) -> Floats:
    queries = np.empty((0, items.dim), np.float32) if users is None else np.asarray(users, np.float32)
    return queries if len(queries) else items.vectors[:: max(1, len(items) // SAMPLES)]


def _report_duplicates(items: ItemVectors, report: Callable[[str], object]) -> None:
    """Reports equal vectors: the index is right, but the model does not distinguish these items."""
    rows, firsts = duplicate_vectors(items.vectors)
    if len(rows):
        pairs = [f"{items.ids[row]!r} of {items.ids[first]!r}" for row, first in zip(rows[:3], firsts[:3], strict=True)]
        more = ", ..." if len(rows) > len(pairs) else ""
        what = "item has" if len(rows) == 1 else "items have"
        report(f"index: {len(rows):,} {what} the vector of another item: {', '.join(pairs)}{more}")


def update_index(
    old: Stored, items: ItemVectors, origin: Rows, index: IndexConfig, users: Floats
) -> tuple[Searcher, bool]:
    """Makes the index of a changed catalogue with the settings of the one before or, where they do not do, with others.

    `origin` has the row of `old`, whose files were checked, with the same vector, or NEW. Recall is measured with
    `users`, [users, vector_dim] float32 vectors of real ones.

    Returns:
        The searcher, and whether its settings are new.
    """
    kind, queries = choose_kind(len(items), index), _queries(items, users)
    backend, searcher = get_backend(kind), None
    if kind == old.kind:
        searcher = backend.update(old, items, origin, index, queries, 0)
    return searcher or backend.build(items, index, queries, 0), searcher is None


def load_index(directory: str | Path, *, threads: int = 0, check: bool = True) -> Searcher:
    """Loads an index that `Searcher.save` wrote. Checksums are compared first: ScaNN aborts on a damaged file.

    At most `threads` answer one call; 0 is one per core. `check` is False where the caller has just compared the
    checksums.

    Raises:
        ArtifactError: naming the file that is missing, damaged or of another version; or the package it needs.
    """
    directory = Path(directory)
    document = index_files.open_index(directory)
    if check:
        index_files.check_index(directory, document)
    backend = get_backend(document["kind"])
    _check_vectors(directory / backend.vectors_file, document)
    try:
        searcher = backend.read(directory, document, threads)
    except TypeError as error:  # of the parameters
        raise ArtifactError(f"{directory / index_files.INDEX}: damaged: {error}; export again") from None
    if len(searcher.items.ids) != document["size"]:
        raise ArtifactError(
            f"{directory / index_files.ITEM_IDS}: damaged: {len(searcher.items.ids)} ids, {index_files.INDEX} states "
            f"{document['size']} items; export again"
        )
    if check and searcher.items.fingerprint != document["fingerprint"]:
        raise ArtifactError(
            f"{directory}: damaged: ids and vectors have fingerprint {searcher.items.fingerprint[:12]}..., "
            f"{index_files.INDEX} states {document['fingerprint'][:12]}..."
        )
    return searcher


def _check_vectors(path: Path, document: dict[str, Any]) -> None:
    """Compares type and shape of the vectors with the index's description: ScaNN aborts on others."""
    vectors, expected = index_files.load_array(path, mapped=True), (document["size"], document["dim"])
    if vectors.dtype != np.float32 or vectors.shape != expected:
        raise ArtifactError(
            f"{path}: damaged: {vectors.dtype} {vectors.shape}, {index_files.INDEX} states float32 {expected}; "
            "export again"
        )


def open_stored(directory: Path) -> Stored:
    """Opens an index whose files were checked, without what answers from it.

    Raises:
        ArtifactError: as `index_files.open_index` says.
    """
    document = index_files.open_index(directory)
    path = directory / get_backend(document["kind"]).vectors_file
    return Stored(directory, document, index_files.load_array(path, mapped=True))
