"""Names, publishes and fingerprints files on disk, and reads and writes JSON manifests.

Every artefact appears whole, by rename, or not at all. Names that start with `.tmp-` are unfinished: nothing reads
them, their writer holds their lock, and the next run of the same stage removes those of a killed process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_tf import locks
from twotower_tf.errors import ArtifactError

SPLITS = ("train", "valid", "test")  # in the order of their codes 0, 1, 2
UNFINISHED = ".tmp-"
METRICS_SCHEMA = 4  # of metrics.json
_UNIQUE = 12  # hexadecimal digits at the end of a temporary name
_SYNCS = 8  # files that are flushed at a time
_LONGEST = 200  # bytes of a name that a temporary one repeats; file systems take 255
WRITE_AGAIN = "write it again with this version"


class Entry:
    """A file or directory below the root of a class of paths, with the description that docs/files.md has."""

    def __init__(self, path: str, description: str) -> None:
        self._path, self.__doc__ = path, description

    def __get__(self, paths: Any, owner: type) -> Path:
        root: Path = paths.root
        return root / self._path


@dataclass(frozen=True)
class RunPaths:
    """Files of a run directory."""

    root: Path

    config = Entry("config.json", "The resolved configuration, which every stage reads.")
    stages = Entry("stages.json", "Which stages are finished, and the digest of what each was made from.")
    prepared = Entry("prepared", "The prepared data, see below.")
    checkpoints = Entry("checkpoints", "Training state: weights, optimizer state and position in the epoch.")
    logs = Entry("logs", "TensorBoard's event files: `tensorboard --logdir=RUN_DIR/logs`.")
    train = Entry(
        "train.json",
        "Training's figures: speed, epochs, best epoch, table rows, planned and peak memory in bytes, also of a "
        "cluster's other processes.",
    )
    final = Entry(
        "final", "The final fit (`train --final`): a run directory whose training part includes the validation part."
    )
    tune = Entry(
        "tune",
        "The search of `twotower tune`: trials, tune.json, tune.html, and best.json, which `run --config` takes.",
    )
    metrics = Entry(
        "metrics.json",
        "Evaluation's figures: metrics with intervals, baselines, slices, collapse check, warnings, some users.",
    )
    item_map = Entry("item_map.json", "A sample of the item vectors in two dimensions, as report.html draws it.")
    report = Entry("report.html", "The same as a page for people.")
    samples = Entry("samples.html", "What the samplers draw, written by `twotower samples`.")
    lock = Entry(locks.NAME, "Present while a command works in the directory; a second command is refused at once.")


@dataclass(frozen=True)
class PreparedPaths:
    """Files of `prepared/`: `twotower prepare` writes them and encodes the features."""

    root: Path

    manifest = Entry(
        "manifest.json", "Rows read, used, excluded and quarantined; splits; input files and their fingerprints."
    )
    items = Entry(
        "items.parquet",
        "The catalogue, one row per item: item_id, raw values, train_count, last_event in seconds and microsecond.",
    )
    users = Entry(
        "users.parquet",
        "The users, one row each: user_id, train_count, last_event in seconds and microsecond, latest values.",
    )
    statistics = Entry("statistics.json", "Quantile boundaries, means and deviations of the training split.")
    columns = Entry(
        "columns.json",
        "Per feature column: distinct values, missing share, values that share a bucket, expected and measured.",
    )
    quarantine = Entry("quarantine.jsonl", "Rejected rows: file, line, reason, text.")

    def examples(self, split: str) -> Path:
        """Directory of Parquet files with the split's rows, raw values."""
        return self.root / "examples" / split

    def sequences(self, which: str) -> Path:
        """Item rows of the positives, user by user in time order: `train`, or `seen` (training and validation)."""
        return self.root / "sequences" / f"{which}.npy"

    def sequence_times(self, which: str) -> Path:
        """Epoch seconds of those positives, 0 without a time; only where a history has `time_gaps`."""
        return self.root / "sequences" / f"{which}_times.npy"

    def sequence_users(self, which: str) -> Path:
        """Start of each user's part of the sequence, by user row, and the sequence's length at the end."""
        return self.root / "sequences" / f"{which}_users.npy"

    positives = Entry(
        "positives", "Parquet files with every positive, user by user in time order, for a later run with `--since`."
    )
    item_versions = Entry(
        "item_versions",
        "Parquet files of item features that change with time: version, item_row, since (microseconds), raw values.",
    )

    def encoded(self, split: str) -> Path:
        """Directory of shards with the split's rows as arrays."""
        return self.root / "encoded" / split

    encoded_items = Entry("encoded/items", "The catalogue as arrays, in row order.")
    encoded_versions = Entry("encoded/versions", "The versions of `item_versions` as arrays, in their order.")
    version_index = Entry(
        "encoded/version_index", "Arrays with the start of each item's versions, and the time from which each is valid."
    )


def sync_to_disk(path: Path) -> None:
    """Flushes a file or directory to disk, so that it survives a power cut before a rename publishes it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; renames it to `path` when the block ends well, else removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent, path.name)
    temporary, descriptor = _create(path, directory=False)
    try:
        with _named_errors(path):
            yield temporary
            sync_to_disk(temporary)
        os.replace(temporary, path)
        sync_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary directory next to `path`; renames it to `path` when the block ends well, else removes it.

    Raises:
        ArtifactError: where `path` exists already and `replace` is not given, or another process is writing it.
    """
    with scratch_directory(path) as temporary:
        with _named_errors(path):
            yield temporary
            with ThreadPoolExecutor(_SYNCS) as pool:  # file systems write what is flushed at the same time together
                list(pool.map(sync_to_disk, temporary.rglob("*")))
            sync_to_disk(temporary)
        if path.exists():
            if not replace:
                raise ArtifactError(f"{path}: exists already and is never overwritten")
            retired = _name_temporary(path)
            os.rename(path, retired)
            os.rename(temporary, path)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.rename(temporary, path)
        sync_to_disk(path.parent)


@contextlib.contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary directory next to `path` and removes it at the end.

    First it removes temporary directories of `path` that killed processes left.

    Raises:
        ArtifactError: where another process is writing `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if remove_unfinished(path.parent, path.name):
        raise ArtifactError(f"{path}: another process is writing it; wait until it has ended, or choose another")
    temporary, descriptor = _create(path, directory=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Adds the path to the error of a failed write (e.g. a full disk) that names no file."""
    try:
        yield
    except OSError as error:
        if re.fullmatch(r"\d+ requested and \d+ written", str(error)):  # as NumPy has it, without a number
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            error.filename = str(path)
        raise


def _create(path: Path, *, directory: bool) -> tuple[Path, int]:
    """Creates a temporary file or directory for `path`; returns it and the descriptor that holds its lock."""
    while True:  # another process may remove it as a leftover before the lock is held
        temporary = _name_temporary(path)
        if directory:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            if locks.acquire(descriptor) and temporary.exists():
                return temporary, descriptor
            os.close(descriptor)


def _name_temporary(path: Path) -> Path:
    return path.parent / f"{UNFINISHED}{_shorten(path.name)}-{uuid.uuid4().hex[:_UNIQUE]}"


def _shorten(name: str) -> str:
    """Shortens a name that would make the temporary name too long for a file system."""
    raw = os.fsencode(name)
    return name if len(raw) <= _LONGEST else f"long-{hashlib.sha256(raw).hexdigest()}"


def remove_unfinished(directory: Path, name: str = "") -> bool:
    """Removes what killed writers of `name` (of anything, by default) left in `directory`.

    Returns:
        whether a running process is writing one; that one is kept.
    """
    if not directory.is_dir():
        return False
    wanted = re.compile(
        rf"{re.escape(UNFINISHED + _shorten(name))}-[0-9a-f]{{{_UNIQUE}}}" if name else rf"{UNFINISHED}.*"
    )
    in_use = False
    for leftover in directory.iterdir():
        if not wanted.fullmatch(leftover.name):
            continue
        if locks.is_held(leftover):
            in_use = True
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return in_use


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file by rename."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON file by rename; see `format_json`."""
    write_text(path, format_json(document, indent=2) + "\n")


def format_json(document: Any, indent: int | None = None) -> str:
    """Formats a document as JSON, on one line by default. NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_replace_infinite(document), indent=indent, ensure_ascii=False, allow_nan=False)


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _replace_infinite(part) for name, part in value.items()}
    return [_replace_infinite(part) for part in value] if isinstance(value, list | tuple) else value


def read_text(path: Path, kind: str) -> str:
    """Reads a UTF-8 file of a directory of a `kind`, e.g. "run directory".

    Raises:
        ArtifactError: where it is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no such file; {path.parent} is not a twotower {kind}, or its command did not finish"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path, kind: str, schema_version: int | None = None, remedy: str = WRITE_AGAIN) -> dict[str, Any]:
    """Reads a JSON object that twotower wrote and checks its schema version.

    Raises:
        ArtifactError: where it is missing, damaged, or of another version. NaN, infinity, a name twice in an object,
            and more depth or digits than Python reads count as damage.
    """
    text = read_text(path, kind)
    try:
        document = json.loads(text, object_pairs_hook=_reject_duplicates, parse_constant=_reject_constant)
    except ValueError as error:
        raise ArtifactError(f"{path}: damaged: {error}") from None
    except RecursionError:
        raise ArtifactError(f"{path}: damaged: nested too deeply") from None
    if not isinstance(document, dict):
        raise ArtifactError(f"{path}: damaged: expected a JSON object, got {type(document).__name__}")
    if schema_version is not None:
        check_schema(document, schema_version, str(path), remedy)
    return document


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} appears twice in an object")
    return found


def check_schema(document: Any, expected: int, where: str, remedy: str = WRITE_AGAIN) -> None:
    """Checks the schema version of a document.

    Raises:
        ArtifactError: where it is another one; it names both versions, and the remedy.
    """
    found = document.get("schema_version") if isinstance(document, dict) else None
    if found != expected:
        raise ArtifactError(
            f"{where}: invalid schema_version {found} (expected {expected}, which this version of twotower_tf reads); "
            f"{remedy}"
        )


def fingerprint(document: Any) -> str:
    """Computes a hexadecimal digest of a JSON-serializable value; equal values have equal digests."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Computes the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()
