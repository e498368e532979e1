"""A version that is about to be published, tried in a fresh process: what the writer has in memory proves nothing.

The process reads the files from disk, compares every checksum, runs both towers with TensorFlow's C library and asks
for the canaries. It imports neither Keras nor TensorFlow's Python, so it takes about a second. It may be told of files
as they are finished: it reads these while its caller writes the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from twotower_tf import artifacts, interpreter
from twotower_tf.bundle import answers, runtime
from twotower_tf.bundle.bundle import INDEX, ITEM_TOWER, Bundle
from twotower_tf.errors import ArtifactError, TwoTowerError
from twotower_tf.index import index_files, topk
from twotower_tf.index.load_index import load
from twotower_tf.index.scann import scann_build
from twotower_tf.index.scann.scann_searcher import ASSETS as SCANN
from twotower_tf.index.scann.scann_searcher import ScannSearcher
from twotower_tf.index.searcher import Searcher

_ITEMS_TRIED = 256
_REFUSED = 3  # exit status: what is wrong is on stdout
_SECONDS = 1800

Tensors = dict[str, dict[str, dict[str, str]]]
Stamp = tuple[int, int, int]  # of a file: inode, size, time of the last change


class Trial:
    """A fresh process that has loaded its libraries."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Keeps the process; it waits for what it is told on its stdin."""
        self.process = process
        self._lock = threading.Lock()

    def finished(self, staging: Path, names: Sequence[str]) -> None:
        """Has it read files of the version that is written in `staging`; nobody changes them any more.

        Args:
            staging: the directory, the same in every call.
            names: files, or directories of finished files, below it. The index, or what ScaNN reads of it, is loaded
                where it is one of them.
        """
        assert self.process.stdin is not None
        line = json.dumps({"path": str(staging.resolve()), "names": list(names)})
        with self._lock, contextlib.suppress(BrokenPipeError):  # it has ended: `check` says how
            os.write(self.process.stdin.fileno(), f"{line}\n".encode())  # nothing stays behind in a buffer

    def check(self, staging: Path) -> None:
        """Tries the finished directory of a version, once.

        Raises:
            ArtifactError: as `fresh.check` says.
        """
        from twotower_tf.bundle import saved_model_edits  # imports TensorFlow, which the fresh process does without

        towers = {"user": staging, "item": staging / ITEM_TOWER}
        tensors = {side: saved_model_edits.tensors(saved_model_edits.read(path)) for side, path in towers.items()}
        request = json.dumps({"path": str(staging.resolve()), "tensors": tensors})
        told, errors = self.process.communicate(request, timeout=_SECONDS)
        status = self.process.returncode
        if status == _REFUSED:
            raise ArtifactError(f"tried in a fresh process: {told.strip()}; nothing was published")
        if status:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            raise ArtifactError(
                f"{staging}: a fresh process that tried it ended with status {status} ({last}); nothing was published"
            )


@contextlib.contextmanager
def waiting(kind: str = "") -> Iterator[Trial]:
    """A fresh process that loads its libraries while a version is written, and reads nothing that it is not told of.

    Args:
        kind: of the version's index, whose library is among them.
    """
    process = subprocess.Popen(
        interpreter.command(f"from {__name__} import main; sys.exit(main())", kind),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=interpreter.environment({"TF_CPP_MIN_LOG_LEVEL": "3"}),
    )
    with process:
        try:
            yield Trial(process)
        finally:
            process.kill()


def check(staging: Path) -> None:
    """Tries the finished directory of a version in a fresh process that is started now.

    Args:
        staging: the directory, under whatever name.

    Raises:
        ArtifactError: saying what is wrong; nothing may be published then.
    """
    with waiting() as trial:
        trial.check(staging)


class _Tower:
    """A tower's signatures, run by the C library."""

    def __init__(self, path: Path, tensors: Tensors) -> None:
        self._session = runtime.Session(path)
        self._tensors = tensors
        self.signatures = tuple(tensors)

    def __call__(self, signature: str, arrays: dict[str, Any]) -> dict[str, Any]:
        names = self._tensors[signature]
        outputs = names["outputs"]
        feeds = {names["inputs"][name]: array for name, array in arrays.items()}
        return dict(zip(outputs, self._session.run(feeds, list(outputs.values())), strict=True))


class _Read:
    """What the process has read of a version so far: every file's checksum, and the index."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(topk.available_threads())
        self._digests: dict[Path, tuple[Stamp, Future[str]]] = {}
        self._held: Future[Any] | None = None
        self._index: Future[Searcher] | None = None

    def begin(self, path: Path, names: Sequence[str]) -> None:
        """Begins with files, or directories of files, below `path`."""
        found = [path / name for name in names]
        found += [file for directory in found for file in sorted(directory.rglob("*"))]
        for file in found:
            if file.is_file() and self._digests.get(file, ((),))[0] != _stamp(file):
                self._digests[file] = (_stamp(file), self._pool.submit(artifacts.sha256_file, file))
        if f"{INDEX}/{SCANN}" in names:
            self._held = self._pool.submit(self._load_scann, path / INDEX / SCANN)
        if INDEX in names:
            self._index = self._pool.submit(self._load, path)

    def digests(self, path: Path) -> dict[str, str]:
        """The SHA-256 of files below `path`, by name, that have not been changed since they were read."""
        return {
            file.relative_to(path).as_posix(): digest.result()
            for file, (stamp, digest) in list(self._digests.items())  # more are begun meanwhile
            if file.is_relative_to(path) and file.is_file() and _stamp(file) == stamp
        }

    def searcher(self, bundle: Bundle) -> Searcher:
        """The index."""
        return self._index.result() if self._index else bundle.searcher()

    def _load_scann(self, path: Path) -> Any:
        """What ScaNN reads, before index.json states its checksums: what is damaged may end this process, no other."""
        self.digests(path)  # hashing waits for Python's lock, which ScaNN holds
        _load_library(ScannSearcher.kind)
        return scann_build.load(path)

    def _load(self, path: Path) -> Searcher:
        stated = index_files.open_index(path / INDEX)
        _load_library(stated["kind"])
        index_files.check_index(path / INDEX, stated, self.digests(path / INDEX))
        return load(path / INDEX, check=False, held=self._held.result() if self._held else None)


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _try(path: Path, tensors: dict[str, Tensors], read: _Read) -> None:
    bundle = Bundle.read(path, known=read.digests(path))
    _load_library(bundle.manifest["index"]["kind"])
    with ThreadPoolExecutor(1) as pool:  # the C library loads one tower beside what else is to do
        user_tower = pool.submit(_Tower, path, tensors["user"])
        searcher = read.searcher(bundle)
        list(answers.check_item_tower(bundle, searcher, _Tower(path / ITEM_TOWER, tensors["item"]), _ITEMS_TRIED))
        list(answers.check_users(bundle, searcher, user_tower.result()))


def _load_library(kind: str) -> None:
    """Imports ScaNN without TensorFlow's Python, which its package takes along for operations that nobody asks here."""
    if kind != ScannSearcher.kind:
        return
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        scann_build.library()
    except ImportError:
        pass  # told where the index is read
    finally:
        del sys.modules["tensorflow"]


def main() -> int:
    """What the process does: reads requests from stdin, a JSON object a line; returns its exit status."""
    try:
        runtime.load_library()
        _load_library(sys.argv[1])
        read = _Read()
        for line in sys.stdin:
            request = json.loads(line)
            if "tensors" in request:
                _try(Path(request["path"]), request["tensors"], read)
                return 0
            read.begin(Path(request["path"]), request["names"])
    except TwoTowerError as error:
        print(error)
        return _REFUSED
    return 1  # whoever started it has gone
