"""Reads an index that `Searcher.save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twotower_tf.errors import ArtifactError
from twotower_tf.index import index_files
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.searcher import Searcher


def load(directory: str | Path, *, threads: int = 0, check: bool = True) -> Searcher:
    """Loads an index. Nothing in it is trusted before its checksum is right: ScaNN aborts on a damaged file.

    Args:
        directory: what `save` wrote, wherever it has been moved to.
        threads: that answer one call at most; 0 is one per core.
        check: False where the caller has just compared the checksums of these files itself.

    Raises:
        ArtifactError: naming the file that is missing, damaged or of another version; or the package it needs.
    """
    directory = Path(directory)
    document = index_files.open_index(directory)
    if check:
        index_files.check_index(directory, document)
    _check_vectors(directory, document)
    searcher: Searcher
    if document["kind"] == "exact":
        searcher = ExactSearcher.read(directory, threads)
    else:
        from twotower_tf.index.scann.scann_searcher import ScannSearcher

        try:
            searcher = ScannSearcher.read(directory, document, threads)
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


def _check_vectors(directory: Path, document: dict[str, Any]) -> None:
    """Compares type and shape of the vectors with the index's description: ScaNN aborts on others."""
    path, expected = directory / index_files.vectors_file(document["kind"]), (document["size"], document["dim"])
    vectors = index_files.load_array(path, mapped=True)
    if vectors.dtype != np.float32 or vectors.shape != expected:
        raise ArtifactError(
            f"{path}: damaged: {vectors.dtype} {vectors.shape}, {index_files.INDEX} states float32 {expected}; "
            "export again"
        )
