"""Finds the files of a table, and recognises their formats.

A table is one file, a glob, or a directory (every file below it with a known suffix). Files are read in the order of
their paths, so that a row's place in the log is always the same. Directories named `KEY=VALUE` give their files the
column KEY where the files have no column of that name; Hive's escapes (`a%2Fb`) are decoded, and its default partition
means no value.

The suffix names the format. A shard is named as its file (`log.csv-00000-of-00010`). A file that is named itself, or a
shard, may be without a known suffix: its first bytes decide.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import os
import re
import struct
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from twotower_tf import artifacts
from twotower_tf.errors import DataError
from twotower_tf.tables.crc32c import masked_crc32c
from twotower_tf.tables.read_options import ReadOptions

# suffix of delimited text: its usual delimiter, "" where there is none
DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t", ".txt": "", ".dat": "", ".data": ""}
PARQUET = frozenset({".parquet", ".pq"})
JSON = frozenset({".jsonl", ".ndjson", ".json"})
TFRECORDS = frozenset({".tfrecord", ".tfrecords"})
KNOWN = (*DELIMITERS, *sorted(PARQUET), *sorted(JSON), *sorted(TFRECORDS))
READ_ERRORS = (OSError, EOFError, zlib.error)  # of files that are missing, truncated or damaged
_ALSO_OTHERS = frozenset({".txt", ".dat", ".data", ".json"})  # of a directory only where nothing else is in it
_SHARD = re.compile(r"-\d{5,}-of-\d{5,}")
_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_WHOLE_HASH_BELOW = 1 << 28  # larger inputs are recognised by their size and both ends
_END = 1 << 20
_INFLATED = 4  # text to its compressed form, roughly


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        path: of the file, or of its copy.
        name: its path relative to `DataConfig.root`, for messages and manifests.
        suffix: its format: one of `KNOWN`, without `.gz`.
        partition: the `KEY=VALUE` directories above it, below the root; the value "" is missing.
        options: how it is written.
        original: the file as found, where `path` is a copy.
        repaired: whether `path` is a copy without its broken records.
        numbers: lines (rows, records) of the file as found, where `path` has only some of them.
    """

    path: Path
    name: str
    suffix: str
    partition: tuple[tuple[str, str], ...]
    options: ReadOptions = ReadOptions()
    original: Path | None = None
    repaired: bool = False
    numbers: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a delimited file without a header line."""
        return self.options.columns

    @property
    def compressed(self) -> bool:
        return is_compressed(self.path)

    def number(self, place: int) -> int:
        """Maps a line (row, record) of `path` to that of the file as found, both from 1."""
        return self.numbers[place - 1] if self.numbers else place


class FileSnapshot:
    """State of files: size, time of the last change, and inode of each."""

    def __init__(self, sources: Iterable[InputFile]) -> None:
        """Records the state of the files; to be called before they are read."""
        self._states = {source.path: (source.name, _read_state(source.path)) for source in sources}

    def _check(self) -> None:
        for path, (name, state) in self._states.items():
            now = _read_state(path)
            if now != state:
                what = "changed" if now else "was removed"
                raise DataError(f"{name}: {what} while it was read; run again when no process writes to it")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Checks the files after the block, and where the block cannot use them: a change is the likelier reason.

        Raises:
            DataError: naming the first file that has changed.
        """
        try:
            yield
        except (DataError, OSError):
            self._check()
            raise
        self._check()


def _read_state(path: Path) -> tuple[int, int, int] | None:
    """Reads size, time of the last change, and inode of a file; None where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def is_compressed(path: Path) -> bool:
    """Tests for `.gz` at the end of a name, or before the number of a shard."""
    return _SHARD.sub("", path.name.lower()).endswith(".gz")


def find_suffix(path: Path) -> str:
    """Returns the suffix that names the format, in lower case, without `.gz` and the number of a shard."""
    return Path(_SHARD.sub("", path.name.lower()).removesuffix(".gz")).suffix


def find_files(root: Path, pattern: str, field: str, options: ReadOptions | None = None) -> list[InputFile]:
    """Finds the files of a table, in the order of their paths.

    Args:
        root: directory that `pattern` is relative to.
        pattern: a file, glob or directory. Symbolic links are followed.
        field: the configuration's name for the table, for messages.
        options: how the files are written.

    Raises:
        DataError: if no file is found, a format is not recognised, or formats are mixed.
    """
    options = options or ReadOptions()
    place = root / pattern
    if place.is_file():
        paths = [place]
    elif place.is_dir():
        paths, _ = _divide_directory(place)
        if not paths:
            raise DataError(f"{field}: no file with a known suffix ({', '.join(KNOWN)}) in {place}")
    else:
        paths = [root / path for path in glob.glob(pattern, root_dir=root, recursive=True) if (root / path).is_file()]
        if not paths:
            kind = "no file matches" if glob.has_magic(pattern) else "no such file:"
            raise DataError(f"{field}: {kind} {place}")
    sources = [dataclasses.replace(_describe_path(root, path, field), options=options) for path in sorted(paths)]
    kinds = sorted({_name_reader(source.suffix) for source in sources})
    if len(kinds) > 1:
        raise DataError(f"{field}: {place} has files of several formats ({', '.join(kinds)}); narrow it to one")
    if options.columns and kinds != ["csv"]:
        named = {"data.events": "columns", "data.items": "item_columns", "data.users": "user_columns"}.get(field)
        where = f"data.{named}" if named else "--columns"
        raise DataError(f"{where}: names the columns of delimited text; {sources[0].name} has names of its own")
    return sources


def find_files_like(root: Path, pattern: str, field: str, options: ReadOptions) -> list[InputFile]:
    """Finds files that may be of another format than the configuration's table: names of columns are of delimited text.

    Raises:
        DataError: see `find_files`.
    """
    sources = find_files(root, pattern, field, dataclasses.replace(options, columns=()))
    if sources[0].suffix not in DELIMITERS:
        return sources
    return [dataclasses.replace(source, options=options) for source in sources]


def find_unread_files(root: Path, pattern: str) -> list[str]:
    """Lists the files of a table's directory that `find_files` leaves out, relative to `root`, except hidden ones."""
    place = root / pattern
    return [path.relative_to(root).as_posix() for path in _divide_directory(place)[1]] if place.is_dir() else []


def _divide_directory(directory: Path) -> tuple[list[Path], list[Path]]:
    """Divides the files below a directory into those that are read and the others, each in order.

    Hidden files and directories (`.` or `_` first) are neither.
    """
    known: list[Path] = []
    seconds: list[Path] = []
    others: list[Path] = []
    for path in _walk(directory, frozenset()):
        suffix = find_suffix(path)
        if suffix in _ALSO_OTHERS:
            seconds.append(path)
        elif suffix in KNOWN or (_SHARD.search(path.name) and sniff_format(path)):
            known.append(path)
        else:
            others.append(path)
    return (sorted(known), sorted(seconds + others)) if known else (sorted(seconds), sorted(others))


def _walk(directory: Path, above: frozenset[str]) -> Iterator[Path]:
    """Yields the files below a directory, behind symbolic links too; a link to a directory above ends there."""
    real = os.path.realpath(directory)
    if real in above:
        return
    for path in sorted(directory.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            yield from _walk(path, above | {real})
        elif path.is_file():
            yield path


def sniff_format(path: Path) -> str:
    """Recognises the format of a file by its first bytes; "" for a binary file of another format."""
    try:
        with open_bytes(path) as file:
            start = file.read(1 << 12)
    except READ_ERRORS:
        return ""
    if start.startswith(b"PAR1"):
        return ".parquet"
    if len(start) >= 12 and masked_crc32c(start[:8]) == struct.unpack("<I", start[8:12])[0]:
        return ".tfrecord"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ".txt"
    if b"\0" in start:
        return ""
    return ".jsonl" if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")) else ".txt"


def list_directories(sources: Iterable[InputFile]) -> list[Path]:
    """Lists the parent directories of the files."""
    return list(dict.fromkeys(source.path.parent for source in sources))


def find_directory(root: Path, pattern: str) -> Path:
    """Returns the directory that contains all files of a table (see `find_files`)."""
    place = root / pattern
    while not place.exists() and (glob.has_magic(str(place.relative_to(root))) or place != root):
        place = place.parent
    return place if place.is_dir() else place.parent


def estimate_text_bytes(sources: Sequence[InputFile]) -> int:
    """Estimates the bytes of the files' values as text, with an assumed compression ratio."""
    return sum(
        each.path.stat().st_size * (_INFLATED if each.suffix in PARQUET or each.compressed else 1) for each in sources
    )


def _name_reader(kind: str) -> str:
    if kind in PARQUET:
        return "parquet"
    return "json" if kind in JSON else "tfrecord" if kind in TFRECORDS else "csv"


def _describe_path(root: Path, path: Path, field: str) -> InputFile:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"{field}: {shown}: the file's name is not UTF-8; rename it") from None
    kind = find_suffix(path)
    if kind not in KNOWN and path.stat().st_size:
        kind = sniff_format(path)
    if kind not in KNOWN:
        suffix = find_suffix(path) or "without a suffix"
        raise DataError(f"{field}: {path}: unknown format {suffix!r}; known: {', '.join(KNOWN)}")
    try:
        name = path.relative_to(root).as_posix()
    except ValueError:
        name = path.as_posix()
    pairs = [part.partition("=") for part in Path(name).parts[:-1]]
    decoded = (
        (key, "" if value == _DEFAULT_PARTITION else urllib.parse.unquote(value))
        for key, equals, value in pairs
        if key and equals
    )
    return InputFile(path, name, kind, tuple(decoded))


@contextlib.contextmanager
def reading(source: InputFile) -> Iterator[None]:
    """Names the file in the error of a block that reads it.

    Raises:
        DataError: where it cannot be read.
    """
    try:
        yield
    except READ_ERRORS as error:
        raise DataError(f"{source.name}: cannot be read: {error}") from None


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file for reading bytes, decompressed."""
    return gzip.open(path, "rb") if is_compressed(path) else path.open("rb")  # type: ignore[return-value]


def check_archive(source: InputFile) -> None:
    """Reads a compressed file to its end, where its checksum is.

    Raises:
        DataError: where it is truncated or damaged. DuckDB would use the part before the damage, or damaged text.
    """
    if not source.compressed:
        return
    with reading(source), gzip.open(source.path, "rb") as file:
        while file.read(_END):
            pass


def describe_file(source: InputFile) -> dict[str, str | int]:
    """Returns path, size and content digest for the manifest; of large files the digest covers both ends only."""
    path = source.original or source.path
    size = path.stat().st_size
    if size <= _WHOLE_HASH_BELOW:
        return {"path": source.name, "size": size, "sha256": artifacts.sha256_file(path)}
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(-_END, 2)
        digest.update(file.read(_END))
    return {"path": source.name, "size": size, "sha256_of_ends": digest.hexdigest()}
