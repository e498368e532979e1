"""`item_embeddings.tsv`: one line per item, `item_id <TAB> v1,v2,...,vD`, UTF-8.

Each number is the shortest decimal text that reads back to the same float32 (Arrow's cast, double-conversion). Both
ways work on blocks of whole columns: no Python code runs per item.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf import artifacts
from twotower_tf.errors import ArtifactError

Floats = npt.NDArray[np.float32]

_VALUES_PER_BLOCK = 1 << 18  # texts of about 3 MB: large enough to amortise calls, small enough to stay in cache
_BYTES_PER_READ = 1 << 24
_TAB, _NEWLINE = 9, 10
_FORBIDDEN = "[\t\n\r\x00]"


def write_tsv(path: Path, ids: Sequence[str] | npt.NDArray[Any] | pa.Array, vectors: Floats, threads: int = 0) -> None:
    """Writes the item vectors, by rename.

    Args:
        path: the file.
        ids: `[num_items]` item ids; without tab, line break or NUL, which the format has no way to write.
        vectors: `[num_items, vector_dim]` float32, finite; may be memory-mapped, it is read block by block.
        threads: blocks formatted at once; 0 takes every core this process may use.

    Raises:
        ArtifactError: for an id that cannot be written or a vector that is not finite, naming the item.
    """
    names = _id_array(ids)
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) != len(names):
        raise ArtifactError(
            f"item vectors: float32 of shape [{len(names)}, vector_dim] is expected for {len(names)} item ids; "
            f"came {vectors.dtype} of shape {list(vectors.shape)}"
        )
    rows = max(1, _VALUES_PER_BLOCK // max(1, vectors.shape[1]))
    threads = threads or len(os.sched_getaffinity(0))
    with artifacts.atomic_file(path) as temporary, temporary.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[memoryview]] = deque()
        for start in range(0, len(names), rows):
            pending.append(pool.submit(_lines, names.slice(start, rows), vectors[start : start + rows]))
            if len(pending) > threads:  # bounds memory: the writer may not fall behind the formatters
                file.write(pending.popleft().result())
        for future in pending:
            file.write(future.result())


def _id_array(ids: Sequence[str] | npt.NDArray[Any] | pa.Array) -> pa.Array:
    try:
        names = ids if isinstance(ids, pa.Array) else pa.array(ids, type=pa.string())
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise ArtifactError(f"item ids: each must be valid Unicode text: {error}") from None
    if names.null_count or pc.any(pc.equal(pc.binary_length(names), 0)).as_py():
        raise ArtifactError("item ids: one is empty; every exported item needs an id")
    odd = names.filter(pc.match_substring_regex(names, _FORBIDDEN))
    if len(odd):
        raise ArtifactError(
            f"item id {odd[0].as_py()!r}: holds a tab, line break or NUL, which item_embeddings.tsv cannot"
        )
    return names


def _lines(ids: pa.Array, vectors: Floats) -> memoryview:
    """The text of a block of rows."""
    if not np.isfinite(vectors).all():
        bad = ids[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])].as_py()
        raise ArtifactError(f"item {bad!r}: its vector is not finite")
    texts = pc.cast(pa.array(np.ascontiguousarray(vectors).reshape(-1)), pa.string())
    ends = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
    joined = pc.binary_join(pa.ListArray.from_arrays(ends, texts), ",")
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(ids, joined, "\t"), "", "\n")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(lines.buffers()[2])[offsets[0] : offsets[-1]]


def read_tsv(path: Path) -> tuple[npt.NDArray[np.object_], Floats]:
    """Reads what `write_tsv` wrote.

    Returns:
        ids `[num_items]` text and vectors `[num_items, vector_dim]` float32, in file order.

    Raises:
        ArtifactError: where the file is missing or damaged, naming the line.
    """
    names: list[npt.NDArray[np.object_]] = []
    blocks: list[Floats] = []
    line, width = 1, 0
    for block in _blocks(path):
        ids, vectors = _parse(path, block, line, width)
        names.append(ids)
        blocks.append(vectors)
        line, width = line + len(ids), vectors.shape[1]
    if not names:
        raise ArtifactError(f"{path}: holds no item")
    return np.concatenate(names), np.concatenate(blocks)


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in pieces that end at a line end."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        rest = b""
        while piece := file.read(_BYTES_PER_READ):
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield rest + piece[:cut]
                rest = piece[cut:]
            else:
                rest += piece
        if rest:
            raise ArtifactError(f"{path}: damaged: the last line has no line end; the file is cut short")


def _parse(path: Path, block: bytes, first_line: int, width: int) -> tuple[npt.NDArray[np.object_], Floats]:
    """Ids and vectors of a block of whole lines; `width` 0 takes it from the first line."""
    content = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(content == _NEWLINE).astype(np.int32)
    starts = np.concatenate(([0], ends[:-1] + 1)).astype(np.int32)
    tabs = np.flatnonzero(content == _TAB).astype(np.int32)
    owner = np.searchsorted(ends, tabs)
    counts = np.bincount(owner, minlength=len(ends))
    _refuse(path, first_line, counts != 1, "one tab between item id and vector is expected")
    _refuse(path, first_line, tabs == starts, "the item id is empty")
    # Arrow strings share one buffer: id, tab, numbers, line end, id, ... ; every fourth is a column.
    edges = np.empty(4 * len(ends) + 1, np.int32)
    edges[0:-1:4], edges[1::4], edges[2::4], edges[3::4], edges[-1] = starts, tabs, tabs + 1, ends, len(block)
    pieces = pa.BinaryArray.from_buffers(
        pa.binary(), 4 * len(ends), [None, pa.py_buffer(edges.tobytes()), pa.py_buffer(block)]
    )
    numbers = pc.split_pattern(pieces.take(pa.array(np.arange(2, len(pieces), 4))), b",")
    lengths = np.diff(numbers.offsets.to_numpy())
    width = width or int(lengths[0])
    _refuse(path, first_line, lengths != width, f"{width} numbers are expected")
    vectors = _numbers(path, first_line, numbers.flatten(), width)
    ids = pieces.take(pa.array(np.arange(0, len(pieces), 4)))
    try:
        return np.asarray(ids.cast(pa.string()).to_numpy(zero_copy_only=False), object), vectors
    except pa.ArrowInvalid:
        valid = np.array([_is_utf8(text) for text in ids.to_pylist()])
        _refuse(path, first_line, ~valid, "the item id is not UTF-8")
        raise


def _numbers(path: Path, first_line: int, texts: pa.Array, width: int) -> Floats:
    try:
        values = texts.cast(pa.string()).cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, width)
    except pa.ArrowInvalid:
        good = np.array([_is_number(text) for text in texts.to_pylist()]).reshape(-1, width).all(axis=1)
        _refuse(path, first_line, ~good, "one of the values is not a number")
        raise
    _refuse(path, first_line, ~np.isfinite(values).all(axis=1), "one of the values is not finite")
    return np.asarray(values, np.float32)


def _refuse(path: Path, first_line: int, bad: npt.ArrayLike, rule: str) -> None:
    if np.any(bad):
        raise ArtifactError(f"{path}: damaged: line {first_line + int(np.argmax(bad))}: {rule}")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_number(text: bytes) -> bool:
    try:
        pa.scalar(text.decode()).cast(pa.float32())
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return False
    return True
