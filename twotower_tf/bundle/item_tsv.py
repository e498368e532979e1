"""`item_embeddings.tsv`: one line per item, `item_id <TAB> v1,v2,...,vD`, UTF-8.

Each number is the shortest decimal text that reads back to the same float32 (by orjson, whose float32 is three times
faster than Arrow's). Both ways stream blocks of whole rows: no Python code runs per item, memory does not grow with the
file, and one block is formatted or parsed while others are put together, written or read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf import artifacts, resources
from twotower_tf.errors import ArtifactError
from twotower_tf.index.item_vectors import ItemVectors
from twotower_tf.threads import map_ahead

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]

_VALUES_PER_BLOCK = 1 << 18  # texts of about 3 MB: large enough to amortise calls, small enough to stay in cache
_BYTES_PER_READ = 1 << 22
_TAB, _NEWLINE, _COMMA, _CLOSE = b"\t\n,]"


def write_tsv(path: Path, items: ItemVectors, threads: int = 0) -> None:
    """Writes the item vectors, by rename; `threads` blocks are formatted at once, 0 takes every core."""
    names, rows = pa.array(items.ids, pa.string()), max(1, _VALUES_PER_BLOCK // items.dim)
    with artifacts.atomic_file(path) as temporary, temporary.open("wb") as file:
        starts = range(0, len(items), rows)

        def format_block(start: int) -> memoryview:
            return _lines(names.slice(start, rows), items.vectors[start : start + rows])

        for lines in map_ahead(format_block, starts, threads or resources.count_cpus()):
            file.write(lines)


def _lines(ids: pa.Array, vectors: Floats) -> memoryview:
    lines = pc.binary_join_element_wise(ids, _number_texts(np.ascontiguousarray(vectors)), "\t")
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
    """Reads what `write_tsv` wrote; `threads` blocks are parsed at once, 0 takes every core.

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
    """Parses a block of whole lines; where that fails, line by line, so that the error names the first bad one."""
    try:
        return _parse_lines(block, width)
    except ValueError:
        for number, line in enumerate(block.split(b"\n")[:-1], first_line):
            try:
                _parse_lines(line + b"\n", width)
            except ValueError as error:
                raise ArtifactError(f"{path}: damaged: line {number}: {error}") from None
        raise


def _parse_lines(block: bytes, width: int) -> tuple[pa.Array, Floats]:
    """Returns ids and vectors, of `width` numbers, of whole lines; raises ValueError with the rule that they break."""
    content = np.frombuffer(block, np.uint8)
    ends, tabs, commas = (np.flatnonzero(content == mark) for mark in (_NEWLINE, _TAB, _COMMA))
    starts = np.concatenate(([0], ends[:-1] + 1))
    if len(tabs) != len(ends) or not ((starts <= tabs) & (tabs < ends)).all():
        raise ValueError("invalid line (expected one tab between item id and vector)")
    if (tabs == starts).any():
        raise ValueError("the item id is empty")
    if not _regular(commas, tabs, ends, width - 1):
        commas = commas[np.searchsorted(tabs, commas) > np.searchsorted(ends, commas)]  # the others are in ids
        if not _regular(commas, tabs, ends, width - 1):
            raise ValueError(f"invalid vector (expected {width} numbers)")
    # Arrow strings share one buffer. Of id, tab, number, comma, number, ..., line end every second is wanted.
    marks = np.concatenate([tabs[:, None], commas.reshape(len(ends), width - 1), ends[:, None]], axis=1)
    edges = np.empty((len(ends), 2 * width + 2), np.int32)
    edges[:, 0], edges[:, 1::2], edges[:, 2::2] = starts, marks, marks[:, :-1] + 1
    pieces = pa.BinaryArray.from_buffers(
        pa.binary(), edges.size, [None, pa.py_buffer(np.append(edges, np.int32(len(block)))), pa.py_buffer(block)]
    )
    places = np.arange(0, edges.size, 2, dtype=np.int32).reshape(len(ends), width + 1)
    ids = _cast(pieces.take(pa.array(places[:, 0])), pa.string(), "the item id is not UTF-8")
    texts = pieces.take(pa.array(places[:, 1:].reshape(-1)))
    numbers = _cast(texts, pa.float32(), "one of the values is not a number")
    vectors: Floats = numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    if not np.isfinite(vectors).all():
        raise ValueError("one of the values is not finite")
    return ids, vectors


def _cast(texts: pa.Array, kind: pa.DataType, rule: str) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        raise ValueError(rule) from None


def _regular(commas: Places, tabs: Places, ends: Places, each: int) -> bool:
    """Returns whether every line has `each` commas, all of them between its tab and its end."""
    if len(commas) != len(ends) * each:
        return False
    return not each or bool((commas[::each] > tabs).all() and (commas[each - 1 :: each] < ends).all())
