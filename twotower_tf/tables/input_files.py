"""Finds the files of a table and reads the headers of delimited files.

A table is one file, a glob, or a directory (every file below it with a known suffix). Files are read in the order of
their paths, so that a row's place in the log is always the same. Directories named `KEY=VALUE` give their files the
column KEY where the files have no column of that name.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from twotower_tf import artifacts
from twotower_tf.errors import DataError

DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
PARQUET = frozenset({".parquet", ".pq"})
JSON_LINES = frozenset({".jsonl", ".ndjson"})
TFRECORDS = frozenset({".tfrecord", ".tfrecords"})
KNOWN = (*DELIMITERS, *sorted(PARQUET), *sorted(JSON_LINES), *sorted(TFRECORDS))
_WHOLE_HASH_BELOW = 1 << 28  # larger inputs are recognised by their size and both ends
_END = 1 << 20
_BLANK = b"\r\n\xef\xbb\xbf"  # line ends and the byte order mark
_INFLATED = 4  # text to its compressed form, roughly


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        path: of the file, or of its copy.
        name: its path relative to `DataConfig.root`, for messages and manifests.
        suffix: its format: one of `KNOWN`, without `.gz`.
        partition: the `KEY=VALUE` directories above it, below the root.
        columns: names of the columns of a delimited file without a header line.
        delimiter: between the fields of a delimited file; "" to detect it from suffix and header.
        original: the file as found, where `path` is a copy without its broken records.
        numbers: lines (rows, records) of the file as found, where `path` has only some of them.
    """

    path: Path
    name: str
    suffix: str
    partition: tuple[tuple[str, str], ...]
    columns: tuple[str, ...] = ()
    delimiter: str = ""
    original: Path | None = None
    numbers: tuple[int, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def number(self, place: int) -> int:
        """Maps a line (row, record) of `path` to that of the file as found, both from 1."""
        return self.numbers[place - 1] if self.numbers else place


class FileSnapshot:
    """State of files: size, time of the last change, and inode of each."""

    def __init__(self, sources: Iterable[InputFile]) -> None:
        """Records the state of the files; to be called before they are read."""
        self._states = {source.path: (source.name, _state(source.path)) for source in sources}

    def check(self) -> None:
        """Checks that the files have not changed.

        Raises:
            DataError: naming the first that has changed.
        """
        for path, (name, state) in self._states.items():
            now = _state(path)
            if now != state:
                what = "changed" if now else "was removed"
                raise DataError(f"{name}: {what} while it was read; run again when no process writes to it")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Checks the files after the block, and where the block cannot use them: a change is the likelier reason.

        Raises:
            DataError: see `check`.
        """
        try:
            yield
        except (DataError, OSError):
            self.check()
            raise
        self.check()


def _state(path: Path) -> tuple[int, int, int] | None:
    """Reads size, time of the last change, and inode of a file; None where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def format_suffix(path: Path) -> str:
    """Returns the suffix that names the format, in lower case, without `.gz`."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def find_files(
    root: Path, pattern: str, field: str, columns: Sequence[str] = (), delimiter: str = ""
) -> list[InputFile]:
    """Finds the files of a table, in the order of their paths.

    Args:
        root: directory that `pattern` is relative to.
        pattern: a file, glob or directory.
        field: the configuration's name for the table, for messages.
        columns: names of the columns of delimited files without a header line.
        delimiter: of delimited files; "" to detect it from suffix and header.

    Raises:
        DataError: where there is no file, one has no known suffix, or formats are mixed.
    """
    place = root / pattern
    if place.is_file():
        paths = [place]
    elif place.is_dir():
        paths = [path for path in place.rglob("*") if path.is_file() and format_suffix(path) in KNOWN]
        paths = [
            path for path in paths if not any(part.startswith((".", "_")) for part in path.relative_to(place).parts)
        ]
        if not paths:
            raise DataError(f"{field}: no file with a known suffix ({', '.join(KNOWN)}) in {place}")
    else:
        paths = [root / path for path in glob.glob(pattern, root_dir=root, recursive=True) if (root / path).is_file()]
        if not paths:
            kind = "no file matches" if glob.has_magic(pattern) else "no such file:"
            raise DataError(f"{field}: {kind} {place}")
    mark = "\t" if delimiter == "\\t" else delimiter
    sources = [
        dataclasses.replace(_source(root, path, field), columns=tuple(columns), delimiter=mark)
        for path in sorted(paths)
    ]
    kinds = sorted({_engine(source.suffix) for source in sources})
    if len(kinds) > 1:
        raise DataError(f"{field}: {place} has files of several formats ({', '.join(kinds)}); narrow it to one")
    if columns and kinds != ["csv"]:
        named = {"data.events": "columns", "data.items": "item_columns", "data.users": "user_columns"}[field]
        raise DataError(f"data.{named}: names the columns of delimited text; {sources[0].name} has names of its own")
    return sources


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
        each.path.stat().st_size * (_INFLATED if each.suffix in PARQUET or each.path.suffix == ".gz" else 1)
        for each in sources
    )


def _engine(kind: str) -> str:
    if kind in PARQUET:
        return "parquet"
    return "jsonl" if kind in JSON_LINES else "tfrecord" if kind in TFRECORDS else "csv"


def _source(root: Path, path: Path, field: str) -> InputFile:
    kind = format_suffix(path)
    if kind not in KNOWN:
        raise DataError(f"{field}: {path}: unknown format {kind or 'without a suffix'!r}; known: {', '.join(KNOWN)}")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"{field}: {shown}: the file's name is not UTF-8; rename it") from None
    try:
        name = path.relative_to(root).as_posix()
    except ValueError:
        name = path.as_posix()
    pairs = (part.partition("=") for part in Path(name).parts[:-1])
    return InputFile(path, name, kind, tuple((key, value) for key, equals, value in pairs if key and equals))


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file for reading bytes, decompressed."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def check_archive(source: InputFile) -> None:
    """Reads a compressed file to its end, where its checksum is.

    Raises:
        DataError: where it is truncated or damaged. DuckDB would use the part before the damage, or damaged text.
    """
    if not source.path.name.lower().endswith(".gz"):
        return
    try:
        with gzip.open(source.path, "rb") as file:
            while file.read(_END):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source.name}: cannot be read: {error}") from None


def read_header(source: InputFile) -> tuple[list[str], str] | None:
    """Reads the column names and the delimiter of a delimited file; None where it is empty.

    The delimiter is `source.delimiter`, or that of the suffix (comma, tab) if the first line has it, else the first of
    tab, semicolon, bar and comma that it has.

    Raises:
        DataError: where the first line is not a header, or is one although the names are given.
    """
    try:
        with open_bytes(source.path) as file:
            number, raw = next(((n, line) for n, line in enumerate(_lines(file), 1) if line.strip(_BLANK)), (1, b""))
            line = raw.decode("utf-8-sig", "replace" if source.columns else "strict")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source.name}: cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{source.name}:1: the header is not UTF-8; convert the file, e.g. with iconv") from None
    if not line.strip("\r\n"):
        return None
    if number > 1 and not source.columns:
        raise DataError(f"{source.name}:1: an empty line before the header; the first line must name the columns")
    own = DELIMITERS[source.suffix]
    delimiter = source.delimiter or next((mark for mark in (own, "\t", ";", "|", ",") if mark in line), own)
    names = next(csv.reader([line], delimiter=delimiter))
    if source.columns:
        if names == list(source.columns):
            raise DataError(
                f"{source.name}:1: the file has a header line; remove the column names from the configuration"
            )
        return list(source.columns), delimiter
    seen: set[str] = set()
    for name in names:
        if not name:
            raise DataError(f"{source.name}:1: a column without a name; the first line must name the columns")
        if name in seen:
            raise DataError(f"{source.name}:1: two columns are named {name!r}")
        seen.add(name)
    return names, delimiter


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(_END):
        yield line


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
