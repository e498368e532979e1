"""An index over a changed catalogue, made from the index before it.

A ScaNN index on disk is tables with one row per item (vector, partition, codes) beside what was trained (partition
centres, code book). So an item that stays brings its rows along, in whatever order; a new vector's rows are computed
by ScaNN with the trained parts; an item that left is no more. ScaNN's own upsert and delete in memory move other items'
rows about, and kill the process where partitions spill.

The trained parts grow old. The recall is measured again; a search that misses the target is widened, and where that is
not enough, or much has changed since the training, the index is built anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.config import IndexConfig
from twotower_tf.index import build_index, index_files
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import Ids, ItemVectors
from twotower_tf.index.scann import scann_build, tuning
from twotower_tf.index.scann.fetch_levels import Level
from twotower_tf.index.scann.scann_searcher import ScannParameters, ScannSearcher
from twotower_tf.index.searcher import Searcher

NEW = -1  # in `origin`: the item's vector is not in the index before

_STALE = 0.3  # share of items new or changed since the training, above which the index is built anew
_WIDER = (1.0, 1.25, 1.6, 2.0)  # factors of the tuned setting that are tried
_CHECKED = 256  # users that recall is measured with: its error is below 0.003 where it is 0.95
_LEVEL_ERROR = 0.01  # of a recall measured with these users, at the last ranks
_SCANN = "scann"
_DATASET = "DATASET_NPY"
_DERIVED = frozenset({"TOKENIZATION_NPY", "AH_DATASET_NPY", "AH_DATASET_SOAR_NPY", "BF16_DATASET_NPY"})
_TRAINED = frozenset({"AH_CENTERS", "PARTITIONER"})
_BYTES = 1 << 22  # of a table's rows that are put together at a time

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Updated:
    """A changed index.

    Attributes:
        searcher: over the new items; saved.
        rebuilt: its trained parts are new.
    """

    searcher: Searcher
    rebuilt: bool


def update(
    old: index_files.Stored,
    ids: Ids,
    new: Floats,
    origin: Rows,
    target: Path,
    index: IndexConfig,
    users: Floats,
    threads: int = 0,
) -> Updated:
    """Makes and saves the index of a changed catalogue.

    Args:
        old: the index before; its files were checked.
        ids: [num_items] of the new catalogue, text.
        new: [items that are NEW, vector_dim] float32, unit length, in the order of the items.
        origin: [num_items] row of `old` with the same vector, or NEW.
        target: directory to write.
        index: kind and target recall.
        users: [users, vector_dim] float32, real user vectors that recall is measured with.
        threads: for building and answering; 0 is one per core.

    Raises:
        DataError: as `build.build` says.
    """
    if old.kind == ScannSearcher.kind == build_index.chosen_kind(len(ids), index):
        known = scann_build.assets(old.directory / _SCANN)
        before = ScannParameters.of(old.document["parameters"])
        changed = before.changed_since + _changes(len(old.vectors), origin)
        if changed <= _STALE * before.trained_on and set(known) <= {_DATASET} | _DERIVED | _TRAINED:
            digests = _splice(old.directory, known, new, origin, target)
            items = ItemVectors.trusted(ids, np.load(target / index_files.DATASET, mmap_mode="r", allow_pickle=False))
            searcher = _checked(old.document, changed, items, target, users, threads)
            if searcher is not None:
                index_files.finish(target, items, searcher.description(), digests)
                return Updated(searcher, False)
            shutil.rmtree(target)
    vectors = np.ascontiguousarray(old.vectors[np.maximum(origin, 0)])
    vectors[origin == NEW] = new
    built = build_index.build(ids, vectors, index, users, threads)
    built.save(target)
    return Updated(built, built.kind != ExactSearcher.kind or built.kind != old.kind)


def _changes(size: int, origin: Rows) -> int:
    """Items that came, changed or left of `size`."""
    stay = int(np.count_nonzero(origin != NEW))
    return len(origin) - stay + size - stay


def _splice(directory: Path, known: dict[str, str], new: Floats, origin: Rows, target: Path) -> dict[str, str]:
    """Writes the rows of the items that stay, and those of new ones, beside the trained parts.

    Returns:
        SHA-256 of the tables that were written, by path below `target`.
    """
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns(_SCANN, index_files.INDEX, index_files.ITEM_IDS))
    old, after = directory / _SCANN, target / _SCANN
    derived = [name for kind, name in known.items() if kind in _DERIVED]
    shutil.copytree(old, after, ignore=shutil.ignore_patterns(*derived, known[_DATASET]))
    size = len(np.load(old / known[_DATASET], mmap_mode="r", allow_pickle=False))
    with tempfile.TemporaryDirectory(dir=target, prefix="part-") as work:
        part = Path(work)
        tables: dict[str, npt.NDArray[Any]] = {known[_DATASET]: new}
        if len(new):
            _derive(old, known, new, part)
        for name in derived:
            tables[name] = np.load(part / name, allow_pickle=False) if len(new) else np.empty(0)
        return {
            f"{_SCANN}/{name}": _splice_rows(old / name, size, table, origin, after / name)
            for name, table in tables.items()
        }


def _derive(old: Path, known: dict[str, str], vectors: Floats, part: Path) -> None:
    """Has ScaNN compute the derived tables of vectors with the trained parts of an index."""
    source = part / "source"
    kept = {kind: name for kind, name in known.items() if kind not in _DERIVED}
    derived = [name for name in known.values() if name not in kept.values()]
    shutil.copytree(old, source, ignore=shutil.ignore_patterns(*derived, known[_DATASET]))
    stated = [f'assets {{\n  asset_type: {kind}\n  asset_path: "{name}"\n}}\n' for kind, name in kept.items()]
    (source / scann_build.ASSET_LIST).write_text("".join(stated), encoding="utf-8")
    np.save(source / known[_DATASET], np.ascontiguousarray(vectors))
    scann_build.load(source).serialize(str(part), relative_path=True)


def _splice_rows(old: Path, size: int, new: npt.NDArray[Any], origin: Rows, target: Path) -> str:
    """Writes one table: rows of the old one of `size` rows by `origin`, for NEW items those of `new` in their order.

    A flat table (partitions, two per item where they spill) has rows all the same.

    Returns:
        The SHA-256 of what was written.
    """
    before = np.load(old, mmap_mode="r", allow_pickle=False)
    width = before.size // size
    shape = (len(origin) * width,) if before.ndim == 1 else (len(origin), width)
    source, added, done = before.reshape(size, width), new.reshape(-1, width), 0
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(before.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    digest = hashlib.sha256(header.getvalue())
    rows = np.empty((min(len(origin), max(1, _BYTES // max(1, width * before.itemsize))), width), before.dtype)
    with target.open("wb") as file:
        file.write(header.getvalue())
        for start in range(0, len(origin), len(rows)):
            place = origin[start : start + len(rows)]
            part, fresh = rows[: len(place)], np.flatnonzero(place == NEW)
            np.take(source, place, axis=0, out=part, mode="clip")
            part[fresh] = added[done : done + len(fresh)]
            done += len(fresh)
            digest.update(part.data)
            file.write(part.data)
    return digest.hexdigest()


def _checked(
    old: dict[str, Any], changed: int, items: ItemVectors, target: Path, users: Floats, threads: int
) -> Searcher | None:
    """The index, with the tuned settings as they were or wider; None where no wider setting reaches the target at k.

    A level above k that does not reach it is left out with those above it: every item is scored instead.
    """
    k = min(int(old["recall"]["k"]), len(items))
    asked = tuning.sample(users if len(users) else items.vectors, _CHECKED)
    truth: Floats | None = None
    wanted = min(float(old["recall"]["target"]), float(old["recall"]["measured"]))
    before = ScannParameters.of({**old["parameters"], "changed_since": changed})
    for factor in _WIDER:
        recall = {**old["recall"], "k": k, "queries": len(asked)}
        document: dict[str, Any] = {"parameters": _wider(before, factor, len(items)).description(), "recall": recall}
        searcher = ScannSearcher.read(target, document, threads, items)
        scores = searcher.search(asked, k).scores
        if truth is None:
            truth = ExactSearcher(items, threads).best_scores(asked, k, scores[:, -1])
        found = tuning.recall_of(scores, truth).astype(np.float64)
        recall["measured"] = round(float(found.mean()), 6)
        error = float(found.std()) / math.sqrt(len(found))
        if recall["measured"] + error >= wanted:  # below it only as far as the choice of users goes
            _keep_levels(searcher, asked, wanted)
            return searcher
    return None


def _keep_levels(searcher: ScannSearcher, asked: Floats, wanted: float) -> None:
    """States the recall of the levels anew, and leaves out those above k that have lost it."""
    levels = searcher.measured_levels(asked)
    kept = 1
    while kept < len(levels) and levels[kept]["recall_excluded"] >= wanted - _LEVEL_ERROR:
        kept += 1
    searcher.parameters = dataclasses.replace(searcher.parameters, wider=searcher.parameters.wider[: kept - 1])
    searcher.recall["levels"] = levels[:kept]


def _wider(parameters: ScannParameters, factor: float, size: int) -> ScannParameters:
    """All levels widened by a factor; those that fetch every item are left out."""

    def widened(level: Level) -> Level:
        leaves = min(parameters.leaves, math.ceil(level.leaves_to_search * factor))
        return Level(level.fetch, leaves, min(size, math.ceil(level.reorder * factor)))

    first, *above = map(widened, parameters.levels)
    return dataclasses.replace(
        parameters,
        leaves_to_search=first.leaves_to_search,
        reorder=first.reorder,
        wider=tuple(level for level in above if level.fetch < size),
    )
