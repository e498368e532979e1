"""An index's directory: `index.json`, `item_ids` and the files of its kind.

`index.json` is written last and names every other file with its SHA-256; paths are relative, so the directory may be
moved. Nothing here is a pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf import artifacts
from twotower_tf.errors import ArtifactError
from twotower_tf.index.items import ItemVectors, read_ids, write_ids

SCHEMA_VERSION = 2
KINDS = ("exact", "scann")
INDEX = "index.json"
ITEM_IDS = "item_ids"
VECTORS = "vectors.npy"


def describe(kind: str, items: ItemVectors) -> dict[str, Any]:
    """The part of an index's description that every kind has."""
    return {
        "kind": kind,
        "size": len(items),
        "dim": items.dim,
        "similarity": "cosine",
        "fingerprint": items.fingerprint,
    }


def finish(directory: Path, items: ItemVectors, description: dict[str, Any]) -> None:
    """Writes `item_ids`, then `index.json` with the checksums of all files."""
    write_ids(directory / ITEM_IDS, items.ids)
    checksums = {
        path.relative_to(directory).as_posix(): artifacts.sha256_file(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != INDEX
    }
    document = {"schema_version": SCHEMA_VERSION, **description, "files": checksums}
    artifacts.write_json(directory / INDEX, document)


def open_index(directory: Path) -> dict[str, Any]:
    """Reads `index.json`.

    Raises:
        ArtifactError: where it is missing, damaged, of another version or of an unknown kind.
    """
    document = artifacts.read_json(directory / INDEX, "index", SCHEMA_VERSION)
    if document.get("kind") not in KINDS:
        raise ArtifactError(
            f"{directory / INDEX}: damaged: kind {document.get('kind')!r} is none of {', '.join(KINDS)}"
        )
    return document


def check_files(root: Path, checksums: dict[str, str], stated_in: str) -> None:
    """Compares files with their SHA-256.

    Raises:
        ArtifactError: naming the first file that is missing or changed, and the file that states its checksum.
    """
    for name, expected in checksums.items():
        path = root / name
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; {stated_in} lists it; export again or restore the file")
        came = artifacts.sha256_file(path)
        if came != expected:
            raise ArtifactError(
                f"{path}: damaged: its sha256 is {came[:12]}..., {stated_in} states {expected[:12]}...; "
                "export again or restore the file"
            )


def restore(directory: Path, vectors: npt.NDArray[np.float32]) -> ItemVectors:
    """The items of an index whose files were checked."""
    return ItemVectors.trusted(read_ids(directory / ITEM_IDS), vectors)
