"""Locks a run directory for one command that writes, or for several that read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from twotower_tf import locks
from twotower_tf.artifacts import RunPaths
from twotower_tf.errors import ArtifactError


@contextlib.contextmanager
def hold_run(run_dir: Path, *, create: bool = False) -> Iterator[None]:
    """Holds a run directory exclusively; `create` makes a new one where there is none.

    Raises:
        ArtifactError: at once, where another process writes or reads it; with `create`, where it is not a run directory
            and not empty.
    """
    if create and not RunPaths(run_dir).config.exists():
        check_new_run(run_dir)
    if create or RunPaths(run_dir).config.exists():
        with locks.hold_directory(run_dir):
            yield
    else:
        yield  # reading its configuration will fail with a clear error


@contextlib.contextmanager
def read_run(run_dir: str | Path, *, own: Path | None = None) -> Iterator[None]:
    """Holds a run directory for reading, so that no command changes it; several commands may read it.

    Args:
        run_dir: of another run; "" for none. Its reader reports a path that is not a run directory.
        own: the caller's own run directory, which it holds already.

    Raises:
        ArtifactError: at once, where another process writes in it.
    """
    path = Path(run_dir)
    if run_dir and RunPaths(path).config.exists() and not (own and own.exists() and path.samefile(own)):
        with locks.hold_directory(path, shared=True):
            yield
    else:
        yield


def check_new_run(run_dir: Path) -> None:
    """Checks that a new run directory can be created at a path.

    Raises:
        ArtifactError: where it is a file, or a directory that holds other files.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise ArtifactError(f"--run_dir: invalid directory '{run_dir}' (it is a file); choose a new or empty one")
    if run_dir.is_dir() and any(not entry.name.startswith(".") for entry in run_dir.iterdir()):
        raise ArtifactError(
            f"--run_dir: invalid directory '{run_dir}' (it is not empty and not a twotower run directory); "
            "choose a new or empty one"
        )
