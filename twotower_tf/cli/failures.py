"""Describes system errors in one line with the path: full disk, out of memory, missing permissions."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from twotower_tf.errors import TwoTowerError

_REFUSED = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
_SHOWN = 200  # characters of a file's name in an error
_FULL = {errno.ENOSPC, errno.EDQUOT}
# messages of libraries: the C library, DuckDB when it spills, NumPy for a short write
_FULL_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|failed to offload data block|\d+ requested and \d+ written"
)
_MEMORY_TEXT = re.compile(r"OOM when allocating|std::bad_alloc|Cannot allocate memory")
_PATH = re.compile(r"(?<![\w.])(/[^\s\"'\\;:,]+)")


def describe(error: BaseException, places: Iterable[Path], limited: bool) -> str | None:
    """Returns one line for an error caused by the system, and None for any other error.

    Args:
        error: the exception that ended the command.
        places: paths that the command writes to; if the error names no path, the one with the least free space is
            reported.
        limited: whether the command has `--memory_limit`.
    """
    for each in _chain(error):
        text = str(each)
        if (isinstance(each, OSError) and each.errno in _FULL) or _FULL_TEXT.search(text):
            quota = getattr(each, "errno", None) == errno.EDQUOT or "quota" in text
            return f"{_place(each, places)}: {os.strerror(errno.EDQUOT if quota else errno.ENOSPC)}"
        if isinstance(each, MemoryError) or type(each).__name__ == "OutOfMemoryException" or _MEMORY_TEXT.search(text):
            reason = text.removeprefix("Out of Memory Error: ").splitlines() or ["allocation failed"]
            remedy = "raise --memory_limit, or use a machine with more memory" if limited else "free some memory"
            return f"out of memory: {reason[0][:200]}; {remedy}"
    if isinstance(error, OSError) and not isinstance(error, TwoTowerError) and error.errno in _REFUSED:
        return f"{_shown(str(error.filename or 'file system'))}: {error.strerror}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error, its cause or context, and so on."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def _place(error: BaseException, places: Iterable[Path]) -> str:
    """Returns the path that an error names, or the one of `places` with the least free space."""
    name = getattr(error, "filename", None)
    if name:
        return _shown(os.fsdecode(name) if isinstance(name, bytes) else str(name))
    named = _PATH.search(str(error))
    if named:
        return named[1]
    free = {place: _free(place) for place in (*places, Path(tempfile.gettempdir()))} if places else {}
    return str(min(free, key=lambda place: free[place])) if free else "file system"


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."


def _free(place: Path) -> int:
    """Returns the free bytes of the file system of a path, which need not exist yet."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize
