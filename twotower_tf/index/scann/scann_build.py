"""Builds, loads and queries ScaNN's own searcher; the package is imported late."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf import artifacts
from twotower_tf.errors import ArtifactError
from twotower_tf.index import members

_CENTRE_SAMPLE = 250_000  # items that the partitions' centres are trained with
_CODE_SAMPLE = 100_000  # and the quantizer, which more items make dearer, not better (tried up to a million)
# Rounds of their training: four more find 0.0015 more of the recall and take a third of the time again.
_CENTRE_ROUNDS = 8
# Of the partitions' centres: they, too, are quantized by the error that a dot product sees (Guo et al., 2020).
_CENTRE_LOSS = 2.5
_PARALLEL_BATCH = 64  # queries that a ScaNN thread takes at a time
_BATCH = 512  # queries of one call by one thread: of more, ScaNN's tables outgrow the caches (a third slower at 4,096)
_UPSERT_BATCH = 256  # vectors of which ScaNN looks for the partitions at once
ASSET_LIST = "scann_assets.pbtxt"
_ASSET = re.compile(r'assets\s*\{\s*asset_type:\s*(\w+)\s*asset_path:\s*"([^"]*)"\s*\}\s*')
_CHATTER = re.compile(rb"[IW]\d{4} \d\d:|WARNING: All log messages before absl::InitializeLog")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """What an index is trained with.

    Attributes:
        leaves: partitions of the items.
        anisotropic_threshold: of the quantizer's loss; a larger one weighs the error along a vector more.
        dimensions_per_block: of the quantizer.
    """

    leaves: int
    anisotropic_threshold: float
    dimensions_per_block: int


def import_scann() -> ModuleType:
    """Imports ScaNN late: it loads TensorFlow's library.

    Raises:
        ImportError: where it is not installed, or does not fit the installed TensorFlow.
    """
    from scann import scann_ops_pybind  # type: ignore[import-untyped,unused-ignore]

    module: ModuleType = scann_ops_pybind
    return module


def list_assets(directory: Path) -> dict[str, str]:
    """Returns the files of a serialized index by kind: names in `directory`.

    Raises:
        ArtifactError: where the list cannot be read, or names a file that is not a plain name in the directory.
    """
    path = directory / ASSET_LIST
    text = artifacts.read_text(path, "serialized ScaNN index")
    found = dict(_ASSET.findall(text))
    if _ASSET.sub("", text).strip() or len(found) != len(_ASSET.findall(text)):
        raise ArtifactError(f"{path}: damaged: not a list of assets, each kind once; export again")
    for name in found.values():
        members.check_name(name, path)
        if not (directory / name).is_file():
            raise ArtifactError(f"{directory / name}: missing; {ASSET_LIST} lists it; export again")
    return found


def load(directory: Path) -> Any:
    """Loads ScaNN's serialized searcher; damaged files end the process.

    Raises:
        ImportError: as `library` says.
        ArtifactError: as `assets` says: ScaNN opens whatever file is named.
    """
    list_assets(directory)
    return import_scann().load_searcher(str(directory), assets_backcompat_shim=False)


def change(directory: Path, vectors: Floats, origin: npt.NDArray[np.int64]) -> Any:
    """Loads a serialized searcher and puts changed vectors in, by ScaNN's own upsert and delete.

    Rows are written in place and at the end, and deleted from the end: ScaNN moves the last row into any other hole.

    Args:
        directory: of the serialized searcher, whose files were checked.
        vectors: [num_items, vector_dim] float32, those that it shall hold.
        origin: [num_items] its row with the same vector, or another number: only rows that differ are written.

    Raises:
        ImportError: as `import_scann` says.
        ArtifactError: as `list_assets` says.
    """
    native = load(directory)
    size = native.size()
    kept = min(size, len(vectors))
    changed = np.flatnonzero(origin[:kept] != np.arange(kept))
    rows = [*changed.tolist(), *(None for _ in range(size, len(vectors)))]  # None is appended
    if rows:
        places = np.concatenate([changed, np.arange(size, len(vectors))])
        native.searcher.upsert(rows, np.ascontiguousarray(vectors[places]), _UPSERT_BATCH)
    if size > kept:
        native.searcher.delete(list(range(size - 1, kept - 1, -1)))
    return native


def build(vectors: Floats, k: int, shape: Shape, threads: int) -> Any:
    """Builds ScaNN's searcher over vectors [num_items, vector_dim] float32 that were checked."""
    builder = import_scann().builder(vectors, k, "dot_product").set_n_training_threads(threads)
    sample = min(len(vectors), _CENTRE_SAMPLE)
    builder = builder.tree(
        shape.leaves,
        shape.leaves,
        training_sample_size=sample,
        training_iterations=_CENTRE_ROUNDS,
        avq=_CENTRE_LOSS,
    )
    builder = builder.score_ah(
        min(shape.dimensions_per_block, vectors.shape[1]),
        anisotropic_quantization_threshold=shape.anisotropic_threshold,
        training_sample_size=min(len(vectors), _CODE_SAMPLE),
    )
    with _quiet():
        return builder.reorder(k).build()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides ScaNN's lines about training where TF_CPP_MIN_LOG_LEVEL is 2 or more, which ScaNN itself ignores.

    They are written by C++, so the file behind stderr is changed; all other lines are passed on.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        original = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            caught.seek(0)
            passed = [line for line in caught if not _CHATTER.match(line)]
            os.write(2, b"".join(passed))


def search_batch(
    searcher: Any, queries: Floats, k: int, leaves_to_search: int, reorder: int, threads: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Returns ScaNN's rows and scores [num_queries, k], best first, ties by row; missing ones last, score -inf."""
    if not len(queries):
        return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
    if len(queries) > _PARALLEL_BATCH and threads > 1:
        return _ordered(*searcher.search_batched_parallel(queries, k, reorder, leaves_to_search, _PARALLEL_BATCH))
    rows, scores = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), _BATCH):
        part = slice(start, start + _BATCH)
        rows[part], scores[part] = _ordered(*searcher.search_batched(queries[part], k, reorder, leaves_to_search))
    return rows, scores


def _ordered(rows: npt.NDArray[Any], scores: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """Returns ScaNN's answers without NaN, equal scores by row."""
    rows, scores = rows.astype(np.int32), np.where(np.isnan(scores), np.float32(-np.inf), scores)
    # ScaNN sorts by score; only where two are equal, rows may be out of order.
    above, below = scores[:, :-1], scores[:, 1:]
    disorder = (below > above) | ((below == above) & (rows[:, 1:] < rows[:, :-1]))
    mixed = np.flatnonzero(disorder.any(axis=1))
    if len(mixed):
        order = np.lexsort((rows[mixed], -scores[mixed]), axis=1)
        rows[mixed] = np.take_along_axis(rows[mixed], order, axis=1)
        scores[mixed] = np.take_along_axis(scores[mixed], order, axis=1)
    return rows, scores
