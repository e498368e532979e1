"""Compares the answers of a bundle's towers and index with its manifest. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf.bundle.bundle import ITEM_TOWER, Bundle
from twotower_tf.bundle.signature_names import (
    ITEM_IDS,
    RECOMMEND,
    SCORES,
    TOLERANCE,
)
from twotower_tf.errors import ArtifactError
from twotower_tf.features.inputs import rows_to_arrays
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.searcher import Searcher

if TYPE_CHECKING:
    from twotower_tf.bundle.loaded_tower import Tower

Floats = npt.NDArray[np.float32]
Answer = tuple[Sequence[str], Sequence[float]]  # item ids and scores, best first

_ITEMS_TRIED = 1024


def make_canaries(
    searcher: Searcher, people: Sequence[dict[str, Any]], vectors: Floats, k: int
) -> list[dict[str, Any]]:
    """Returns what the manifest expects for real users: their features, and the k best items of the index.

    `vectors`, [people, vector_dim] float32, are those that the exported user tower gives for `people`.
    """
    found = searcher.search(vectors, k)
    return [
        {"user": dict(user), "item_ids": ids.tolist(), "scores": [float(score) for score in scores]}
        for user, ids, scores in zip(people, found.item_ids, found.scores, strict=True)
    ]


def check_item_tower(bundle: Bundle, searcher: Searcher, tower: Tower, most: int = _ITEMS_TRIED) -> Iterator[str]:
    """Compares the tower's vectors of items, evenly from the catalogue, with the index's.

    Raises:
        ArtifactError: naming the item that is farthest away.
    """
    count = len(searcher.items)
    rows = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
    catalogue = bundle.columns([each.name for each in tower.inputs]).take(pa.array(rows)).to_pylist()
    apart = np.abs(tower.vectors(rows_to_arrays(tower.inputs, catalogue)) - searcher.items.vectors[rows]).max(axis=1)
    if not (apart <= TOLERANCE).all():
        item = searcher.items.ids[rows[np.argmax(apart)]]
        raise ArtifactError(
            f"{bundle.path / ITEM_TOWER}: invalid vector for item {item!r} (expected that of the index, differs by "
            f"{apart.max():.3g}); export again"
        )
    yield f"item tower: gives the vectors of {len(rows)} items of the catalogue"


def check_users(bundle: Bundle, searcher: Searcher, tower: Tower) -> Iterator[str]:
    """Requests the canaries and compares their answers with those that the manifest states.

    Raises:
        ArtifactError: for a canary with another answer, naming it.
    """
    canaries = bundle.manifest["canaries"]
    arrays = rows_to_arrays(tower.inputs, [canary["user"] for canary in canaries])
    expected = [(canary["item_ids"], canary["scores"]) for canary in canaries]
    vectors = tower.vectors(arrays)
    found = searcher.search(vectors, bundle.manifest["canary_k"])
    _as_expected(bundle, canaries, expected, list(zip(found.item_ids, found.scores, strict=True)), "the index")
    yield f"{len(canaries)} canaries: the index answers as expected"
    if RECOMMEND in tower.signatures:
        inside = tower(RECOMMEND, arrays)
        ids = [[text.decode() for text in row] for row in inside[ITEM_IDS]]
        exact = ExactSearcher(searcher.items).search(vectors, len(ids[0]))
        expected = list(zip(exact.item_ids, exact.scores, strict=True))
        actual = list(zip(ids, inside[SCORES], strict=True))
        _as_expected(bundle, canaries, expected, actual, f"signature {RECOMMEND}")
        yield f"{len(canaries)} canaries: signature {RECOMMEND} answers as exact search over the index's vectors"


def _as_expected(
    bundle: Bundle, canaries: list[dict[str, Any]], expected: Sequence[Answer], actual: Sequence[Answer], source: str
) -> None:
    """Compares every canary's items in order; scores that are equal up to rounding may be in either order."""
    for canary, (ids, scores), (found_ids, found_scores) in zip(canaries, expected, actual, strict=True):
        if len(found_ids) != len(ids) or not _same(ids, np.asarray(scores), found_ids, np.asarray(found_scores)):
            raise ArtifactError(
                f"{bundle.path}: {source} answers for canary {canary['user']} with {list(found_ids)} (expected "
                f"{list(ids)}); export again"
            )


def _same(ids: Sequence[str], scores: Floats, found_ids: Sequence[str], found_scores: Floats) -> bool:
    if np.abs(scores - found_scores).max(initial=0.0) > TOLERANCE:
        return False
    gaps = np.abs(np.diff(scores, prepend=np.inf, append=scores[-1:]))  # the last item's next rival is not known
    certain = (gaps[:-1] > 2 * TOLERANCE) & (gaps[1:] > 2 * TOLERANCE)
    return all(mine == theirs for mine, theirs, sure in zip(ids, found_ids, certain, strict=True) if sure)
