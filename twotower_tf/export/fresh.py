"""A version that is about to be published, tried in a fresh process: what the writer has in memory proves nothing.

The process reads the files from disk, compares every checksum, runs both towers with TensorFlow's C library and asks
for the canaries. It imports neither Keras nor TensorFlow's Python, so it takes about a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from twotower_tf.errors import ArtifactError, TwoTowerError
from twotower_tf.export import answers, runtime
from twotower_tf.index import native
from twotower_tf.index.bundle import ITEM_TOWER, Bundle
from twotower_tf.index.scann_searcher import ScannSearcher

_ITEMS_TRIED = 256
_REFUSED = 3  # exit status: what is wrong is on stdout
_SECONDS = 1800

Tensors = dict[str, dict[str, dict[str, str]]]


@contextlib.contextmanager
def waiting(kind: str = "") -> Iterator[subprocess.Popen[str]]:
    """A fresh process that has loaded its libraries, while a version is written, and has read nothing of it.

    Args:
        kind: of the version's index, whose library is among them.
    """
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def check(staging: Path, process: subprocess.Popen[str] | None = None) -> None:
    """Tries the finished directory of a version.

    Args:
        staging: the directory, under whatever name.
        process: one that is `waiting`, for this alone; by default it is started now.

    Raises:
        ArtifactError: saying what is wrong; nothing may be published then.
    """
    from twotower_tf.export import saved_model  # imports TensorFlow, which the fresh process does without

    if process is None:
        with waiting() as started:
            check(staging, started)
        return
    towers = {"user": staging, "item": staging / ITEM_TOWER}
    tensors = {side: saved_model.tensors(saved_model.read(path)) for side, path in towers.items()}
    request = json.dumps({"path": str(staging.resolve()), "tensors": tensors})
    told, errors = process.communicate(request, timeout=_SECONDS)
    if process.returncode == _REFUSED:
        raise ArtifactError(f"tried in a fresh process: {told.strip()}; nothing was published")
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise ArtifactError(
            f"{staging}: a fresh process that tried it ended with status {process.returncode} ({last}); "
            "nothing was published"
        )


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


def _try(path: Path, tensors: dict[str, Tensors]) -> None:
    bundle = Bundle.read(path)
    _load_library(bundle.manifest["index"]["kind"])
    with ThreadPoolExecutor(1) as pool:  # the C library loads one tower beside what else is to do
        user_tower = pool.submit(_Tower, path, tensors["user"])
        searcher = bundle.searcher()
        list(answers.check_item_tower(bundle, searcher, _Tower(path / ITEM_TOWER, tensors["item"]), _ITEMS_TRIED))
        list(answers.check_users(bundle, searcher, user_tower.result()))


def _load_library(kind: str) -> None:
    """Imports ScaNN without TensorFlow's Python, which its package takes along for operations that nobody asks here."""
    if kind != ScannSearcher.kind:
        return
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        native.library()
    except ImportError:
        pass  # told where the index is read
    finally:
        del sys.modules["tensorflow"]


def _main() -> int:
    try:
        runtime.load_library()
        _load_library(sys.argv[1])
        request = json.load(sys.stdin)
        _try(Path(request["path"]), request["tensors"])
    except TwoTowerError as error:
        print(error)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
