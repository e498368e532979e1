"""Locks directories for one command at a time. A lock ends with the process that holds it, however that ends.

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
    """Holds a directory exclusively, or shared with other readers.

    Args:
        directory: created where it is missing; with `shared`, its reader reports a missing one.
        shared: whether other readers may hold it too. A reader may lack the right to write there.

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
    """Opens and locks the lock file; None where a reader needs none: see `_open`."""
    while True:
        descriptor = _open(path, shared)
        if descriptor is None:
            return None
        if not acquire(descriptor, shared=shared):
            try:
                raise ArtifactError(
                    f"{path.parent}: in use by {_describe_holder(descriptor)}; "
                    "wait until it has ended, or choose another directory"
                )
            finally:
                os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                _sign(descriptor)
                return descriptor
        os.close(descriptor)  # the holder removed the file after it was opened here


def acquire(descriptor: int, *, shared: bool = False) -> bool:
    """Locks an open file without waiting; false where another process holds it.

    On file systems without locks it always succeeds.
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
    """Tests whether a process holds the lock of a file or directory itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not acquire(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, shared: bool) -> int | None:
    """Opens the lock file; None where a reader finds none and cannot create it: then no process can write there.

    Raises:
        ArtifactError: where it is a link, a pipe or a device: a directory from an untrusted source may hold one, and
            locking writes to it.
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
    """Writes the holder into the lock file, for the error message of other processes."""
    command = shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])
    document = {"host": socket.gethostname(), "pid": os.getpid(), "command": command}
    with contextlib.suppress(OSError):  # a reader that may not write, a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(document).encode(), 0)


def _describe_holder(descriptor: int) -> str:
    """Describes the holder that the lock file names."""
    try:
        document: Any = json.loads(os.pread(descriptor, 1 << 16, 0))
        pid, host, command = int(document["pid"]), str(document["host"]), str(document["command"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    shown = command if len(command) <= _SHOWN else f"{command[:_SHOWN]}..."
    if host != socket.gethostname():
        return f"process {pid} on {host} ({shown})"
    return f"process {pid} ({shown})" if _is_running(pid) else "another process"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
