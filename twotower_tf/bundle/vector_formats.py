"""Writes item vectors in formats for other programs, in addition to `item_embeddings.tsv`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.bundle import bundle, item_tsv
from twotower_tf.errors import ArtifactError
from twotower_tf.index.item_vectors import ItemVectors

_PARQUET, _NPY = "item_embeddings.parquet", "item_embeddings.npy"
_ROWS = 1 << 16


def write(directory: Path, formats: Sequence[str], items: ItemVectors) -> None:
    """Writes the item vectors, in every format that is named.

    - `tsv`: item_embeddings.tsv, as `item_tsv` says.
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
    "tsv": lambda directory, items: item_tsv.write_tsv(directory / bundle.TSV, items),
    "parquet": _write_parquet,
    "npy": lambda directory, items: np.save(directory / _NPY, items.vectors),
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
