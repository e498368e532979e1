"""Which command may work in a run directory: one that writes there, or several that read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from twotower_tf import locks
from twotower_tf.artifacts import RunPaths
from twotower_tf.errors import ArtifactError


@contextlib.contextmanager
def hold_run(run_dir: Path, *, create: bool = False) -> Iterator[None]:
    """Makes the caller the only command that works in a run directory; `create` makes a new one where there is none.

    Raises:
        ArtifactError: at once, where another process works in it or reads it; with `create`, where it holds something
            else.
    """
    if create and not RunPaths(run_dir).config.exists():
        check_new_run(run_dir)
    if create or RunPaths(run_dir).config.exists():
        with locks.hold_directory(run_dir):
            yield
    else:
        yield  # whoever reads its configuration refuses it


@contextlib.contextmanager
def read_run(run_dir: str | Path, *, own: Path | None = None) -> Iterator[None]:
    """Keeps others from changing a run directory that a command reads; several commands may read one.

    Args:
        run_dir: of another run; "" is none. What is no run directory is left to its reader.
        own: the caller's own run directory, which it holds already.

    Raises:
        ArtifactError: at once, where another process works in it.
    """
    path = Path(run_dir)
    if run_dir and RunPaths(path).config.exists() and not (own and own.exists() and path.samefile(own)):
        with locks.hold_directory(path, shared=True):
            yield
    else:
        yield


def check_new_run(run_dir: Path) -> None:
    """Refuses a path at which no new run directory can be made.

    Raises:
        ArtifactError: where it is a file, or a directory that holds something else.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ArtifactError(f"{run_dir}: is a file; --run_dir names a directory")
    if run_dir.is_dir() and any(not entry.name.startswith(".") for entry in run_dir.iterdir()):
        raise ArtifactError(f"{run_dir}: not empty and not a run directory of ours; choose a new or empty one")
