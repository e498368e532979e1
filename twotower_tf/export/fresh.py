"""A version that is about to be published, tried in a fresh process: what the writer has in memory proves nothing.

The process reads the files from disk, compares every checksum, runs both towers with TensorFlow's C library and asks
for the canaries. It imports neither Keras nor TensorFlow's Python (ScaNN does, where the index is one), so it takes
about a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twotower_tf.errors import ArtifactError, TwoTowerError
from twotower_tf.export import answers, runtime
from twotower_tf.index.bundle import ITEM_TOWER, Bundle

_ITEMS_TRIED = 256
_REFUSED = 3  # exit status: what is wrong is on stdout
_SECONDS = 1800

Tensors = dict[str, dict[str, dict[str, str]]]


def check(staging: Path) -> None:
    """Tries the finished directory of a version.

    Args:
        staging: the directory, under whatever name.

    Raises:
        ArtifactError: saying what is wrong; nothing may be published then.
    """
    from twotower_tf.export import saved_model  # imports TensorFlow, which the fresh process does without

    towers = {"user": staging, "item": staging / ITEM_TOWER}
    tensors = {side: saved_model.tensors(saved_model.read(path)) for side, path in towers.items()}
    request = json.dumps({"path": str(staging.resolve()), "tensors": tensors})
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=request,
        capture_output=True,
        text=True,
        env=environment,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode == _REFUSED:
        raise ArtifactError(f"tried in a fresh process: {done.stdout.strip()}; nothing was published")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ArtifactError(
            f"{staging}: a fresh process that tried it ended with status {done.returncode} ({last}); "
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
    searcher = bundle.searcher()
    list(answers.check_item_tower(bundle, searcher, _Tower(path / ITEM_TOWER, tensors["item"]), _ITEMS_TRIED))
    list(answers.check_users(bundle, searcher, _Tower(path, tensors["user"])))


def _main() -> int:
    request = json.load(sys.stdin)
    try:
        _try(Path(request["path"]), request["tensors"])
    except TwoTowerError as error:
        print(error)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
