"""Checks a published bundle as a whole: are the files those that were written, and do they still answer the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from twotower_tf.errors import ArtifactError
from twotower_tf.export import manifest, raw, signatures, tsv, warmup
from twotower_tf.export.export import TOLERANCE
from twotower_tf.export.reload import Tower
from twotower_tf.features.inputs import rows_to_arrays, side_inputs
from twotower_tf.index.bundle import ITEM_TOWER, TSV, Bundle
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.items import NORM_TOLERANCE
from twotower_tf.index.searcher import Searcher
from twotower_tf.model.towers import VECTOR_LAYERS

Floats = npt.NDArray[np.float32]

Answer = tuple[Sequence[str], Sequence[float]]  # item ids and scores, best first

_ITEMS_TRIED = 1024


def verify(export_dir: Path, version: int | None = None) -> list[str]:
    """Verifies a version of an export root, by default the newest.

    Returns:
        What was checked, a line each.

    Raises:
        ArtifactError: at the first check that fails, naming the file.
    """
    bundle = Bundle.open(export_dir, version)
    checks = [f"version {bundle.version}: {len(bundle.manifest['files'])} files, as long as they were and unchanged"]
    checks += _files(bundle)
    checks += _weights(bundle)
    searcher = bundle.searcher()
    checks += _vectors(bundle, searcher)
    checks += _signatures(bundle, searcher)
    checks += _item_tower(bundle, searcher)
    checks += _users(bundle, searcher)
    return checks


def _files(bundle: Bundle) -> Iterator[str]:
    strangers = sorted(set(manifest.listing(bundle.path)) - set(bundle.manifest["files"]))
    if strangers:
        raise ArtifactError(f"{bundle.path / strangers[0]}: not in the manifest; a version is never changed")
    yield "no file beside those of the manifest"


def _weights(bundle: Bundle) -> Iterator[str]:
    for side, path in (("user", bundle.path), ("item", bundle.path / ITEM_TOWER)):
        came, stated = manifest.weights_fingerprint(path), bundle.manifest["weights_fingerprint"][side]
        if came != stated:
            raise ArtifactError(
                f"{path / 'variables'}: weights of fingerprint {came[:12]}..., the manifest states {stated[:12]}..."
            )
        yield f"{side} tower: weights of fingerprint {came[:12]}..."


def _vectors(bundle: Bundle, searcher: Searcher) -> Iterator[str]:
    items = searcher.items
    if items.fingerprint != bundle.manifest["vectors_fingerprint"]:
        raise ArtifactError(
            f"{bundle.path / 'index'}: ids and vectors of fingerprint {items.fingerprint[:12]}..., "
            f"the manifest states {bundle.manifest['vectors_fingerprint'][:12]}..."
        )
    yield f"index: {len(items)} items of {items.dim} dimensions, fingerprint {items.fingerprint[:12]}..."
    lengths = np.linalg.norm(items.vectors, axis=1)
    if np.abs(lengths - 1).max() > NORM_TOLERANCE:
        raise ArtifactError(
            f"{bundle.path / 'index'}: item {items.ids[np.argmax(np.abs(lengths - 1))]!r}: not of unit length"
        )
    yield "every item vector has length 1"
    ids, vectors = tsv.read_tsv(bundle.path / TSV)
    if not np.array_equal(ids, items.ids) or not np.array_equal(vectors, items.vectors):
        raise ArtifactError(f"{bundle.path / TSV}: other items or vectors than the index holds")
    if not np.array_equal(bundle.items["item_id"].to_numpy(), items.ids):
        raise ArtifactError(f"{bundle.path / 'items.parquet'}: other items, or in another order, than the index holds")
    yield f"{TSV} and items.parquet: the same items, in the same order; the same vectors"


def _signatures(bundle: Bundle, searcher: Searcher) -> Iterator[str]:
    config = bundle.config
    wanted = {signatures.SERVING_DEFAULT, signatures.FROM_EXAMPLES}
    recommend = {signatures.RECOMMEND} if len(searcher.items) <= config.index.recommend_below else set()
    for path, names in ((bundle.path, wanted | recommend), (bundle.path / ITEM_TOWER, wanted)):
        file = path / "saved_model.pb"
        found = _definitions(file)
        missing = sorted(names - set(found))
        if missing:
            raise ArtifactError(f"{file}: has no signature {missing[0]!r}; it has {', '.join(sorted(found))}")
        for name in sorted(names):
            for kind, tensors in (("input", found[name].inputs), ("output", found[name].outputs)):
                for tensor, info in tensors.items():
                    if info.tensor_shape.unknown_rank or not info.tensor_shape.dim:
                        raise ArtifactError(f"{file}: {name}: {kind} {tensor!r} has no batch dimension")
        yield f"{file.relative_to(bundle.path)}: {', '.join(sorted(names))}; the batch is dimension 0 throughout"


def _definitions(file: Path) -> Any:
    """The signatures that a client can call, by name."""
    try:
        return saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0].signature_def
    except (DecodeError, IndexError):
        raise ArtifactError(f"{file}: damaged: no SavedModel") from None


def _item_tower(bundle: Bundle, searcher: Searcher) -> Iterator[str]:
    inputs = side_inputs(bundle.config, "item")
    count = len(searcher.items)
    rows = np.unique(np.linspace(0, count - 1, min(_ITEMS_TRIED, count)).astype(np.int64))
    tower = Tower(bundle.path / ITEM_TOWER, inputs)
    came = tower.vectors(VECTOR_LAYERS["item"], raw.item_arrays(inputs, bundle.items.take(pa.array(rows))))
    apart = np.abs(came - searcher.items.vectors[rows]).max(axis=1)
    if not (apart <= TOLERANCE).all():
        item = searcher.items.ids[rows[np.argmax(apart)]]
        raise ArtifactError(
            f"{bundle.path / ITEM_TOWER}: its vector for item {item!r} is {apart.max():.3g} away from the index's"
        )
    yield f"item tower: gives the vectors of {len(rows)} items of the catalogue"


def _users(bundle: Bundle, searcher: Searcher) -> Iterator[str]:
    inputs = side_inputs(bundle.config, "user")
    tower = Tower(bundle.path, inputs)
    canaries = bundle.manifest["canaries"]
    arrays = rows_to_arrays(inputs, [canary["user"] for canary in canaries])
    answer = tower(signatures.SERVING_DEFAULT, arrays)
    if set(answer[signatures.MODEL_VERSION].tolist()) != {bundle.version}:
        raise ArtifactError(f"{bundle.path}: the user tower does not answer as version {bundle.version}")
    vectors = answer[VECTOR_LAYERS["user"]]
    expected = [(canary["item_ids"], canary["scores"]) for canary in canaries]
    found = searcher.search(vectors, bundle.manifest["canary_k"])
    _as_expected(bundle, canaries, expected, list(zip(found.item_ids, found.scores, strict=True)), "the index")
    yield f"{len(canaries)} canaries: the index answers as expected"
    if signatures.RECOMMEND in tower.signatures:
        inside = tower(signatures.RECOMMEND, arrays)
        ids = [[text.decode() for text in row] for row in inside["item_ids"]]
        exact = ExactSearcher(searcher.items).search(vectors, len(ids[0]))
        expected = list(zip(exact.item_ids, exact.scores, strict=True))
        _as_expected(bundle, canaries, expected, list(zip(ids, inside["scores"], strict=True)), "signature recommend")
        yield f"{len(canaries)} canaries: signature recommend answers as exact search over the index's vectors"
    requests = 0
    for signature, request in warmup.read(bundle.path / warmup.WARMUP):
        tower(signature, request)
        requests += 1
    yield f"{warmup.WARMUP}: {requests} requests, all answered"


def _as_expected(
    bundle: Bundle, canaries: list[dict[str, Any]], expected: list[Answer], came: list[Answer], source: str
) -> None:
    """Every canary's items, in order; where two scores are equal up to rounding, either order."""
    for canary, (ids, scores), (came_ids, came_scores) in zip(canaries, expected, came, strict=True):
        if len(came_ids) != len(ids) or not _same(ids, np.asarray(scores), came_ids, np.asarray(came_scores)):
            raise ArtifactError(
                f"{bundle.path}: {source} answers for canary {canary['user']} with {list(came_ids)}, "
                f"expected {list(ids)}"
            )


def _same(ids: Sequence[str], scores: Floats, came_ids: Sequence[str], came_scores: Floats) -> bool:
    if np.abs(scores - came_scores).max(initial=0.0) > TOLERANCE:
        return False
    gaps = np.abs(np.diff(scores, prepend=np.inf, append=scores[-1:]))  # the last item's next rival is not known
    certain = (gaps[:-1] > 2 * TOLERANCE) & (gaps[1:] > 2 * TOLERANCE)
    return all(mine == theirs for mine, theirs, sure in zip(ids, came_ids, certain, strict=True) if sure)
