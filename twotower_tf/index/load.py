"""Reads an index that `Searcher.save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twotower_tf.errors import ArtifactError
from twotower_tf.index import files
from twotower_tf.index.exact import ExactSearcher
from twotower_tf.index.searcher import Searcher


def load(directory: str | Path, *, threads: int = 0, check: bool = True, held: Any = None) -> Searcher:
    """Loads an index. Nothing in it is trusted before its checksum is right: ScaNN aborts on a damaged file.

    Args:
        directory: what `save` wrote, wherever it has been moved to.
        threads: that answer one call at most; 0 is one per core.
        check: False where the caller has just compared the checksums of these files itself.
        held: `native.load` of an index of kind scann, where the caller has that.

    Raises:
        ArtifactError: naming the file that is missing, damaged or of another version; or the package it needs.
    """
    directory = Path(directory)
    document = files.open_index(directory)
    if check:
        files.check_files(directory, document["files"], files.INDEX)
    searcher: Searcher
    if document["kind"] == "exact":
        searcher = ExactSearcher.read(directory, threads)
    else:
        from twotower_tf.index.scann_searcher import ScannSearcher

        searcher = ScannSearcher.read(directory, document, threads, held=held)
    stated, held = (document["size"], document["dim"]), (len(searcher.items), searcher.items.dim)
    if stated != held:
        raise ArtifactError(
            f"{directory}: damaged: {files.INDEX} states {stated} items x dimensions, files hold {held}"
        )
    if check and searcher.items.fingerprint != document["fingerprint"]:
        raise ArtifactError(
            f"{directory}: damaged: ids and vectors have fingerprint {searcher.items.fingerprint[:12]}..., "
            f"{files.INDEX} states {document['fingerprint'][:12]}..."
        )
    return searcher
