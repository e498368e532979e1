"""Starts Python processes of this package that import no module of the working directory.

`python -c` and `python -m` put the working directory first on `sys.path`: a `queue.py` next to the data would be run.
Python 3.11 and later leave it out where PYTHONSAFEPATH is set; for Python 3.10 the process removes it before it imports
anything. Directories that PYTHONPATH names stay.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import util
from pathlib import Path
from typing import Any

SAFE_PATH = "PYTHONSAFEPATH"

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_PACKAGE = str(Path(__file__).resolve().parents[1])
_REMOVE = "import sys; sys.path[:] = [path for path in sys.path if path]"


def build_command(code: str, *arguments: str) -> list[str]:
    """Builds the command that runs Python code which may import this package, wherever it is installed.

    Args:
        code: Python statements.
        arguments: `sys.argv` from 1 on.
    """
    # Last, so that other files of a checkout do not hide a library.
    return [sys.executable, "-c", f"{_REMOVE}; sys.path.append({_PACKAGE!r}); {code}", *arguments]


def build_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Builds the environment of a process that `build_command` starts: this one's, with changes."""
    return {**os.environ, **_safe(), **changes}


def _safe() -> dict[str, str]:
    """Builds the variables of a safe path; an empty part of PYTHONPATH would be the working directory, too."""
    parts = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {SAFE_PATH: "1", "PYTHONPATH": os.pathsep.join(parts)}


@contextlib.contextmanager
def spawn_with(changes: Mapping[str, str]) -> Iterator[None]:
    """Makes `multiprocessing` spawn processes with a changed environment and the safe path of `build_command`."""
    changes = {**_safe(), **changes}
    before, spawn = {name: os.environ.get(name) for name in changes}, util.spawnv_passfds
    os.environ.update(changes)
    if sys.version_info < (3, 11):
        util.spawnv_passfds = _spawn_safely  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = spawn
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_SPAWN = util.spawnv_passfds


def _spawn_safely(path: Any, arguments: Sequence[Any], descriptors: Any) -> int:
    """Starts a process for `multiprocessing`; workers and the resource tracker are `python -c CODE`."""
    changed = list(arguments)
    place = changed.index("-c") + 1
    changed[place] = f"{_REMOVE}; {changed[place]}"
    return int(_SPAWN(path, changed, descriptors))


def make_environment(threads: int) -> dict[str, str]:
    """Returns environment variables that limit a process's libraries to this number of threads."""
    numbers = {name: str(threads) for name in _THREADS}
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    return {**numbers, "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": level, "CUDA_VISIBLE_DEVICES": "-1"}


def initialize_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends the process with its parent, even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
