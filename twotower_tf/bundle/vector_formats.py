"""Item vectors in formats for other programs, in addition to `item_embeddings.tsv`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.bundle import bundle, item_tsv
from twotower_tf.errors import ArtifactError
from twotower_tf.index import index_files
from twotower_tf.index.item_vectors import Ids, ItemVectors

_PARQUET, _NPY = "item_embeddings.parquet", "item_embeddings.npy"
_ROWS = 1 << 16

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Earlier:
    """A version whose text of vectors is copied where it is the same.

    Attributes:
        path: its item_embeddings.tsv.
        digest: the file's SHA-256 as the version's manifest states it.
        size: its items.
        origin: [items] row of that version with the same id and vector, ascending, or negative.
    """

    path: Path
    digest: str
    size: int
    origin: npt.NDArray[np.int64]


def write(directory: Path, formats: Sequence[str], items: ItemVectors) -> None:
    """Writes the item vectors, in every format that is named.

    - `tsv`: item_embeddings.tsv, as `export.tsv` says.
    - `parquet`: item_embeddings.parquet with `item_id`, text, and `vector`, a list of float32 of fixed size.
    - `npy`: item_embeddings.npy, float32 `[items, vector_dim]`; row i is the item of line i of index/item_ids.

    Raises:
        ArtifactError: for another name, which a manifest may have.
    """
    unknown = sorted(set(formats) - set(_WRITERS))
    if unknown:
        raise ArtifactError(f"formats: invalid format {unknown[0]!r} (expected {', '.join(_WRITERS)}); export again")
    for name in formats:
        _WRITERS[name](directory, items)


def splice_tsv(directory: Path, earlier: Earlier, ids: Ids, new: Floats) -> dict[str, str]:
    """Writes item_embeddings.tsv with the lines of an earlier version.

    Args:
        directory: of the new version, which is not published yet.
        earlier: the version; the checksum of its file is compared here.
        ids: [items] text.
        new: [items without a row in the earlier version, vector_dim] float32.

    Returns:
        SHA-256 of the file by its name.

    Raises:
        ArtifactError: where the earlier file is not the one that its manifest states.
    """
    done = item_tsv.splice_tsv(earlier.path, earlier.size, earlier.origin, directory / bundle.TSV, ids, new)
    index_files.check_digest(earlier.path, done.source, earlier.digest, bundle.MANIFEST)
    return {bundle.TSV: done.written}


def _write_tsv(directory: Path, items: ItemVectors) -> None:
    item_tsv.write_tsv(directory / bundle.TSV, items.ids, items.vectors)


def _write_npy(directory: Path, items: ItemVectors) -> None:
    np.save(directory / _NPY, items.vectors)


def _write_parquet(directory: Path, items: ItemVectors) -> None:
    schema = pa.schema([("item_id", pa.string()), ("vector", pa.list_(pa.float32(), items.dim))])
    with pq.ParquetWriter(directory / _PARQUET, schema) as writer:
        for start in range(0, len(items), _ROWS):
            vectors = np.ascontiguousarray(items.vectors[start : start + _ROWS])
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), items.dim)
            writer.write_table(
                pa.table([pa.array(items.ids[start : start + _ROWS], pa.string()), column], schema=schema)
            )


_WRITERS: dict[str, Callable[[Path, ItemVectors], None]] = {
    "tsv": _write_tsv,
    "parquet": _write_parquet,
    "npy": _write_npy,
}
FORMATS = tuple(_WRITERS)


def check(directory: Path, formats: Sequence[str], items: ItemVectors) -> Iterator[str]:
    """Compares the files with the items, and yields their names.

    Raises:
        ArtifactError: naming the file that holds others.
    """
    if "parquet" in formats:
        table = pq.read_table(directory / _PARQUET)
        vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, items.dim)
        if not np.array_equal(table["item_id"].to_numpy(), items.ids) or not np.array_equal(vectors, items.vectors):
            raise ArtifactError(f"{directory / _PARQUET}: other items or vectors than the index holds")
        yield _PARQUET
    if "npy" in formats:
        if not np.array_equal(np.load(directory / _NPY, mmap_mode="r", allow_pickle=False), items.vectors):
            raise ArtifactError(f"{directory / _NPY}: other vectors than the index holds")
        yield _NPY
