"""Locks of directories: who may work there now. A lock ends with the process that holds it, however that ends.

The locks are `flock`s. A directory that a command works in is locked by the file `.lock` there, which the last holder
removes; an unfinished file or directory is locked itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twotower_tf.errors import ArtifactError

NAME = ".lock"
_SHOWN = 120  # characters of a command in an error


@contextlib.contextmanager
def hold_directory(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Makes the caller the only command that works in a directory, or one of several that read it.

    Args:
        directory: created where it is missing; with `shared`, a missing one is left to its reader to refuse.
        shared: whether other readers may work there too. A reader may lack the right to write there.

    Raises:
        ArtifactError: at once, where another process holds the directory; it names that process and its command.
    """
    if not shared:
        directory.mkdir(parents=True, exist_ok=True)
    descriptor = _take(directory / NAME, shared)
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                if acquire(descriptor):  # no reader is left
                    os.unlink(directory / NAME)
            os.close(descriptor)


def _take(path: Path, shared: bool) -> int | None:
    """The lock file, open and locked; None where a reader needs none: see `_open`."""
    while True:
        descriptor = _open(path, shared)
        if descriptor is None:
            return None
        if not acquire(descriptor, shared=shared):
            try:
                raise ArtifactError(
                    f"{path.parent}: in use by {_holder(descriptor)}; "
                    "wait until it has ended, or choose another directory"
                )
            finally:
                os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                _sign(descriptor)
                return descriptor
        os.close(descriptor)  # its holder removed it at the end, after we had opened it


def acquire(descriptor: int, *, shared: bool = False) -> bool:
    """Locks an open file without waiting; false where another process holds it.

    File systems without locks grant every one.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EBADF):  # EBADF: NFS, of a directory
            raise
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file or directory itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not acquire(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, shared: bool) -> int | None:
    """The lock file, open; None where a reader finds none and cannot create it: then nobody can write there.

    Raises:
        ArtifactError: where it is a link, a pipe or a device: a directory from elsewhere may hold one, and whoever
            locks it writes there.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ArtifactError(f"{path}: invalid lock file (expected a plain file); remove it")
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except (FileNotFoundError, NotADirectoryError):
        if not shared:
            raise
        return None
    except OSError as error:
        if not shared or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None


def _sign(descriptor: int) -> None:
    """Writes into the lock file who holds it, for the error of the next one."""
    command = shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])
    document = {"host": socket.gethostname(), "pid": os.getpid(), "command": command}
    with contextlib.suppress(OSError):  # a reader that may not write, a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(document).encode(), 0)


def _holder(descriptor: int) -> str:
    """What the lock file says of its holder."""
    try:
        document: Any = json.loads(os.pread(descriptor, 1 << 16, 0))
        pid, host, command = int(document["pid"]), str(document["host"]), str(document["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    shown = command if len(command) <= _SHOWN else f"{command[:_SHOWN]}..."
    if host != socket.gethostname():
        return f"process {pid} on {host} ({shown})"
    return f"process {pid} ({shown})" if _runs(pid) else "another process"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
