"""Verifies a bundle as a whole: unchanged files, and the same answers as at export."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.bundle import answers, item_tsv, manifest, saved_model_edits, vector_formats, warmup
from twotower_tf.bundle.bundle import TSV, Bundle
from twotower_tf.bundle.loaded_tower import Tower
from twotower_tf.config.index_kinds import is_exact
from twotower_tf.errors import ArtifactError
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.item_vectors import NORM_TOLERANCE
from twotower_tf.index.scann.tuning import compute_recall, sample
from twotower_tf.index.searcher import Searcher

Floats = npt.NDArray[np.float32]

_RECALL_SLACK = 0.005  # another processor rounds other candidates into the last places


def verify(export_dir: Path, version: int | None = None) -> list[str]:
    """Verifies a version of an export root, by default the newest.

    Returns:
        What was checked, a line each.

    Raises:
        ArtifactError: at the first check that fails, naming the file.
    """
    return run_checks(Bundle.open(export_dir, version))


def run_checks(bundle: Bundle) -> list[str]:
    """Runs the checks of an opened version, whose files are unchanged.

    Returns:
        What was checked, a line each.

    Raises:
        ArtifactError: at the first check that fails, naming the file.
    """
    checks = [f"version {bundle.version}: {len(bundle.manifest['files'])} files, unchanged, and no others"]
    checks += _weights(bundle)
    searcher = bundle.searcher()
    checks += _vectors(bundle, searcher)
    checks += _recall(bundle, searcher)
    checks += _signatures(bundle)
    with contextlib.closing(Tower.of_bundle(bundle, "item")) as item_tower:  # freed before the other one is loaded
        checks += answers.check_item_tower(bundle, searcher, item_tower)
    user_tower = Tower.of_bundle(bundle, "user")
    checks += answers.check_users(bundle, searcher, user_tower)
    checks += _warmup(bundle, user_tower)
    return checks


def _weights(bundle: Bundle) -> Iterator[str]:
    for side, path in manifest.tower_paths(bundle.path).items():
        (actual, _), stated = manifest.hash_weights(path), bundle.manifest["weights_fingerprint"][side]
        if actual != stated:
            raise ArtifactError(
                f"{path / 'variables'}: weights of fingerprint {actual[:12]}..., the manifest states {stated[:12]}..."
            )
        yield f"{side} tower: weights of fingerprint {actual[:12]}..."


def _vectors(bundle: Bundle, searcher: Searcher) -> Iterator[str]:
    items = searcher.items
    if items.fingerprint != bundle.manifest["vectors_fingerprint"]:
        raise ArtifactError(
            f"{bundle.path / 'index'}: ids and vectors of fingerprint {items.fingerprint[:12]}..., "
            f"the manifest states {bundle.manifest['vectors_fingerprint'][:12]}..."
        )
    yield f"index: {len(items)} items of {items.dim} dimensions, fingerprint {items.fingerprint[:12]}..."
    lengths = np.sqrt(np.einsum("ij,ij->i", items.vectors, items.vectors))  # without a copy of the vectors
    if np.abs(lengths - 1).max() > NORM_TOLERANCE:
        longest = items.ids[np.argmax(np.abs(lengths - 1))]
        raise ArtifactError(f"{bundle.path / 'index'}: item {longest!r}: invalid vector (expected length 1)")
    yield "every item vector has length 1"
    row = 0
    for ids, vectors in item_tsv.read_blocks(bundle.path / TSV):  # block by block: memory does not grow with the file
        part = slice(row, row + len(ids))
        if not np.array_equal(ids.to_numpy(zero_copy_only=False), items.ids[part]) or not np.array_equal(
            vectors, items.vectors[part]
        ):
            raise ArtifactError(f"{bundle.path / TSV}: other items or vectors than the index holds")
        row = part.stop
    if row != len(items):
        raise ArtifactError(f"{bundle.path / TSV}: {row} items, the index holds {len(items)}")
    for name in vector_formats.check(bundle.path, bundle.manifest["formats"], items):
        yield f"{name}: the same items and vectors"
    if not np.array_equal(bundle.columns(["item_id"])["item_id"].to_numpy(), items.ids):
        raise ArtifactError(f"{bundle.path / 'items.parquet'}: other items, or in another order, than the index holds")
    yield f"{TSV} and items.parquet: the same items, in the same order; the same vectors"


def _recall(bundle: Bundle, searcher: Searcher) -> Iterator[str]:
    """Measures the index's recall again with the same users, of each number of answers that the manifest states."""
    if is_exact(searcher.kind):
        yield "index: exact"
        return
    stated = bundle.manifest["index"]["recall"]
    first = {"k": stated["k"], "excluded": 0, "recall_excluded": stated["measured"], "queries": stated["queries"]}
    above = stated.get("levels", [])[1:]  # an index made by an earlier version states none
    for queries, levels in itertools.groupby([first, *above], key=lambda level: int(level["queries"])):
        users = sample(bundle.sample_users, queries)
        if not len(users):
            yield "index: recall not measured, the bundle has no users"
            return
        yield from _recall_of(bundle, searcher, users, list(levels))


def _recall_of(bundle: Bundle, searcher: Searcher, users: Floats, levels: list[dict[str, Any]]) -> Iterator[str]:
    """Measures the recall of k answers, or of those after as many excluded items as each level states."""
    scores = [searcher.search(users, level["k"]).scores for level in levels]
    truth = ExactSearcher(searcher.items).best_scores(users, scores[-1].shape[1], scores[-1][:, -1])
    for level, found in zip(levels, scores, strict=True):
        k, excluded, expected = level["k"], level["excluded"], level["recall_excluded"]
        actual = float(compute_recall(found, truth[:, :k], excluded).mean(dtype=np.float64))
        ranks = f"recall of ranks {excluded + 1} to {k}" if excluded else f"recall@{k}"
        if actual < expected - _RECALL_SLACK:
            raise ArtifactError(
                f"{bundle.path / 'index'}: {ranks} of {len(users)} users is {actual:.4f}, the manifest states "
                f"{expected:.4f}"
            )
        yield f"index: {ranks} of {len(users)} users {actual:.4f}, stated {expected:.4f}"


def _signatures(bundle: Bundle) -> Iterator[str]:
    for side, path in manifest.tower_paths(bundle.path).items():
        file = path / saved_model_edits.FILE
        found = saved_model_edits.list_signatures(saved_model_edits.read(path))
        stated = bundle.manifest["signatures"][side]
        missing = sorted(set(stated) - set(found))
        if missing:
            raise ArtifactError(f"{file}: has no signature {missing[0]!r}; it has {', '.join(found)}")
        for name in stated:
            for kind, tensors in (("input", found[name].inputs), ("output", found[name].outputs)):
                for tensor, info in tensors.items():
                    if info.tensor_shape.unknown_rank or not info.tensor_shape.dim:
                        raise ArtifactError(f"{file}: {name}: {kind} {tensor!r} has no batch dimension")
        yield f"{file.relative_to(bundle.path)}: {', '.join(stated)}; the batch is dimension 0 throughout"


def _warmup(bundle: Bundle, tower: Tower) -> Iterator[str]:
    requests = 0
    for signature, request in warmup.read(bundle.path / warmup.WARMUP):
        tower(signature, request)
        requests += 1
    yield f"{warmup.WARMUP}: {requests} requests, all answered"
