"""`item_embeddings.tsv`: one line per item, `item_id <TAB> v1,v2,...,vD`, UTF-8.

Each number is the shortest decimal text that reads back to the same float32 (by orjson, whose float32 is three times
faster than Arrow's). Both ways stream blocks of whole rows: no Python code runs per item, memory does not grow with the
file, and one block is formatted or parsed while others are put together, written or read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf import artifacts, resources
from twotower_tf.characters import LINE_BREAKING
from twotower_tf.errors import ArtifactError
from twotower_tf.threads import map_ahead

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]

_VALUES_PER_BLOCK = 1 << 18  # texts of about 3 MB: large enough to amortise calls, small enough to stay in cache
_BYTES_PER_READ = 1 << 22
_TAB, _NEWLINE, _COMMA, _CLOSE = b"\t\n,]"


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
            f"item vectors: invalid {vectors.dtype} array of shape {list(vectors.shape)} (expected float32 of shape "
            f"[{len(names)}, vector_dim] for {len(names)} item ids)"
        )
    rows = max(1, _VALUES_PER_BLOCK // max(1, vectors.shape[1]))
    threads = threads or resources.count_cpus()
    with artifacts.atomic_file(path) as temporary, temporary.open("wb") as file:
        starts = range(0, len(names), rows)
        for lines in map_ahead(lambda at: _lines(names.slice(at, rows), vectors[at : at + rows]), starts, threads):
            file.write(lines)


def _id_array(ids: Sequence[str] | npt.NDArray[Any] | pa.Array) -> pa.Array:
    try:
        names = ids if isinstance(ids, pa.Array) else pa.array(ids, type=pa.string())
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise ArtifactError(f"item ids: each must be valid Unicode text: {error}") from None
    if names.null_count or pc.any(pc.equal(pc.binary_length(names), 0)).as_py():
        raise ArtifactError("item ids: invalid empty id (every exported item needs an id)")
    odd = names.filter(pc.match_substring_regex(names, LINE_BREAKING))
    if len(odd):
        raise ArtifactError(f"item ids: invalid id {odd[0].as_py()!r} (expected text without tab, line break and NUL)")
    return names


def _lines(ids: pa.Array, vectors: Floats) -> memoryview:
    """Formats a block of rows."""
    if not np.isfinite(vectors).all():
        bad = ids[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])].as_py()
        raise ArtifactError(f"item {bad!r}: invalid vector (expected finite numbers)")
    names = ids.cast(pa.string())
    lines = pc.binary_join_element_wise(names, _number_texts(np.ascontiguousarray(vectors)), "\t")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(lines.buffers()[2])[offsets[0] : offsets[-1]]


def _number_texts(vectors: Floats) -> pa.Array:
    """Formats each row as `v1,...,vD` and a line end, cut out of a JSON list of lists."""
    text = bytearray(orjson.dumps(vectors, option=orjson.OPT_SERIALIZE_NUMPY))
    if (vectors == np.rint(vectors)).any():  # JSON writes whole numbers as 1.0, which is not the shortest
        text = text.replace(b".0,", b",").replace(b".0]", b"]")
    content = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(content[:-1] == _CLOSE)
    content[ends] = _NEWLINE
    # Arrow strings share one buffer: brackets, a row, brackets, a row, ... ; every second is wanted.
    edges = np.empty(2 * len(ends) + 1, np.int32)
    edges[0], edges[1], edges[2::2], edges[3::2] = 0, 2, ends + 1, ends[:-1] + 3
    pieces = pa.StringArray.from_buffers(len(edges) - 1, pa.py_buffer(edges), pa.py_buffer(text))
    return pieces.take(pa.array(np.arange(1, len(pieces), 2, dtype=np.int32)))


def read_tsv(path: Path, threads: int = 0) -> tuple[npt.NDArray[np.object_], Floats]:
    """Reads what `write_tsv` wrote.

    Args:
        path: the file.
        threads: blocks parsed at once; 0 takes every core this process may use.

    Returns:
        ids `[num_items]` text and vectors `[num_items, vector_dim]` float32, in file order.

    Raises:
        ArtifactError: where the file is missing or damaged, naming the line.
    """
    parts = list(read_blocks(path, threads))
    if not parts:
        raise ArtifactError(f"{path}: holds no item")
    names = pa.chunked_array([ids for ids, _ in parts])
    return np.asarray(names.to_numpy(), object), np.concatenate([vectors for _, vectors in parts])


def read_blocks(path: Path, threads: int = 0) -> Iterator[tuple[pa.Array, Floats]]:
    """Reads what `write_tsv` wrote, block by block: what is in memory does not grow with the file.

    Args:
        path: the file.
        threads: blocks parsed at once; 0 takes every core this process may use.

    Yields:
        ids `[rows]` (Arrow text) and vectors `[rows, vector_dim]` float32, in file order.

    Raises:
        ArtifactError: where the file is missing or damaged, naming the line.
    """
    threads = threads or resources.count_cpus()
    yield from map_ahead(lambda each: _parse(path, *each), _numbered_blocks(path), threads)


def _numbered_blocks(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Yields blocks, each with the number of its first line and the width of the file's vectors."""
    width, line = 0, 1
    for block in _blocks(path):
        first, _, _ = block.partition(b"\n") if not width else (b"", b"", b"")
        width = width or first.rpartition(b"\t")[2].count(b",") + 1
        yield block, line, width
        line += block.count(b"\n")


def _blocks(path: Path) -> Iterator[bytes]:
    """Yields the file in pieces that end at a line end."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        rest = b""
        while piece := file.read(_BYTES_PER_READ):
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield b"".join((rest, memoryview(piece)[:cut]))
                rest = piece[cut:]
            else:
                rest += piece
        if rest:
            raise ArtifactError(f"{path}: damaged: the last line has no line end; the file is cut short")


def _parse(path: Path, block: bytes, first_line: int, width: int) -> tuple[pa.Array, Floats]:
    """Ids and vectors, of `width` numbers, of a block of whole lines."""
    content = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(content == _NEWLINE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    tabs = np.flatnonzero(content == _TAB)
    counts = np.bincount(np.searchsorted(ends, tabs), minlength=len(ends))
    _refuse(path, first_line, counts != 1, "invalid line (expected one tab between item id and vector)")
    _refuse(path, first_line, tabs == starts, "the item id is empty")
    commas = np.flatnonzero(content == _COMMA)
    if not _regular(commas, tabs, ends, width - 1):
        commas = commas[np.searchsorted(tabs, commas) > np.searchsorted(ends, commas)]  # the others are in ids
        counts = np.bincount(np.searchsorted(ends, commas), minlength=len(ends))
        _refuse(path, first_line, counts != width - 1, f"invalid vector (expected {width} numbers)")
    # Arrow strings share one buffer. Of id, tab, number, comma, number, ..., line end every second is wanted.
    marks = np.concatenate([tabs[:, None], commas.reshape(len(ends), width - 1), ends[:, None]], axis=1)
    edges = np.empty((len(ends), 2 * width + 2), np.int32)
    edges[:, 0], edges[:, 1::2], edges[:, 2::2] = starts, marks, marks[:, :-1] + 1
    pieces = pa.BinaryArray.from_buffers(
        pa.binary(), edges.size, [None, pa.py_buffer(np.append(edges, np.int32(len(block)))), pa.py_buffer(block)]
    )
    places = np.arange(0, edges.size, 2, dtype=np.int32).reshape(len(ends), width + 1)
    vectors = _numbers(path, first_line, pieces.take(pa.array(places[:, 1:].reshape(-1))), width)
    ids = pieces.take(pa.array(places[:, 0]))
    try:
        return ids.cast(pa.string()), vectors
    except pa.ArrowInvalid:
        valid = np.array([_is_utf8(text) for text in ids.to_pylist()])
        _refuse(path, first_line, ~valid, "the item id is not UTF-8")
        raise


def _regular(commas: Places, tabs: Places, ends: Places, each: int) -> bool:
    """Returns whether every line has `each` commas, all of them between its tab and its end."""
    if len(commas) != len(ends) * each:
        return False
    return not each or bool((commas[::each] > tabs).all() and (commas[each - 1 :: each] < ends).all())


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
