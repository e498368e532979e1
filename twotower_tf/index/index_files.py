"""An index's directory: `index.json`, `item_ids` and the files of its kind.

`index.json` is written last and names every other file with its SHA-256; paths are relative, so the directory may be
moved. Nothing here is a pickle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf import artifacts
from twotower_tf.errors import ArtifactError
from twotower_tf.index import manifest_schema, members, topk
from twotower_tf.index.item_vectors import ItemVectors, read_ids, write_ids
from twotower_tf.resources import format_bytes

SCHEMA_VERSION = 3
ID_BYTES = 160  # in memory, of an id of about twenty characters: text, its place in the array and in the lookup table
_OLDER = 2  # without levels above k; it is read, too
INDEX = "index.json"
ITEM_IDS = "item_ids"
NEW = -1  # instead of an item's row in an earlier index: its vector is not in there


@dataclass(frozen=True)
class Stored:
    """An index on disk, without what answers from it; vectors are [items, vector_dim] float32, mapped."""

    directory: Path
    document: dict[str, Any]
    vectors: npt.NDArray[np.float32]

    @property
    def kind(self) -> str:
        """The name of its backend."""
        return str(self.document["kind"])


@dataclass(frozen=True)
class Memory:
    """Estimated bytes of an index, without those of Python and its libraries.

    Attributes:
        build: at most while it is built and tuned, the vectors given among them.
        answer: while it answers.
    """

    build: int
    answer: int

    def __str__(self) -> str:
        return f"about {format_bytes(self.build)} of memory to build it, {format_bytes(self.answer)} to answer from it"


def describe(kind: str, items: ItemVectors) -> dict[str, Any]:
    """Returns the part of an index's description that every kind has."""
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
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != INDEX)
    digests = hash_files(directory, [path.relative_to(directory).as_posix() for path in paths])
    artifacts.write_json(directory / INDEX, {"schema_version": SCHEMA_VERSION, **description, "files": digests})


def hash_files(root: Path, names: Collection[str], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Computes the SHA-256 of files below `root` by name, in the order of the names, except the `known` ones.

    They are computed side by side, the largest first.
    """
    found = dict(known or {})
    order = sorted((name for name in names if name not in found), key=lambda name: -(root / name).stat().st_size)
    with ThreadPoolExecutor(topk.available_threads()) as pool:
        found |= zip(order, pool.map(lambda name: artifacts.sha256_file(root / name), order), strict=True)
    return {name: found[name] for name in names}


def open_index(directory: Path) -> dict[str, Any]:
    """Reads `index.json`.

    Raises:
        ArtifactError: where it is missing, damaged, of another version or of an unknown kind, or names a file that is
            no plain relative path.
    """
    document = artifacts.read_json(directory / INDEX, "index")
    if document.get("schema_version") != _OLDER:
        artifacts.check_schema(document, SCHEMA_VERSION, str(directory / INDEX))
    manifest_schema.check_index(directory / INDEX, document)
    members.check_names(document["files"], directory / INDEX)
    return document


def check_index(directory: Path, document: Mapping[str, Any]) -> None:
    """Compares the files of an index with its description.

    Raises:
        ArtifactError: naming a file that is missing, changed, not listed, or a symbolic link.
    """
    members.check_complete(directory, members.find(directory), document["files"], INDEX)
    check_files(directory, document["files"], INDEX)


def load_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Reads a NumPy file whose checksum was compared; nothing in it is a pickle.

    Raises:
        ArtifactError: where it is missing or no such file.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged: {str(error).splitlines()[0]}; export again") from None
    return array


def check_files(root: Path, stated: dict[str, str], stated_in: str) -> None:
    """Compares files with their SHA-256.

    Raises:
        ArtifactError: naming the first file that is missing, else the first that is changed, and the file that states
            its checksum.
    """
    for name in stated:
        if not (root / name).is_file():
            raise ArtifactError(f"{root / name}: missing; {stated_in} lists it; export again or restore the file")
    for name, actual in hash_files(root, stated).items():
        check_digest(root / name, actual, stated[name], stated_in)


def check_digest(path: Path, actual: str, stated: str, stated_in: str) -> None:
    """Compares the SHA-256 that a file has with the one that it should have.

    Raises:
        ArtifactError: naming the file, and the file that states its checksum.
    """
    if actual != stated:
        raise ArtifactError(
            f"{path}: damaged: its sha256 is {actual[:12]}..., {stated_in} states {stated[:12]}...; "
            "export again or restore the file"
        )


def restore(directory: Path, vectors: npt.NDArray[np.float32]) -> ItemVectors:
    """Restores the items of an index whose files were checked."""
    return ItemVectors.trusted(read_ids(directory / ITEM_IDS), vectors)
