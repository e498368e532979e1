"""The export root: its versions, its lock, and the removal of old versions."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from twotower_tf import artifacts, locks
from twotower_tf.bundle import bundle
from twotower_tf.errors import ArtifactError, ConfigError

_OURS = ("README.md", "serving", "blocklist.txt")  # in addition to versions, hidden files and unfinished work
_LARGEST = 2**63 - 1  # a server reads a version as int64


@contextlib.contextmanager
def lock_root(export_dir: Path) -> Iterator[None]:
    """Makes the caller the only writer of an export root, and clears what a killed one left there.

    Raises:
        ArtifactError: where the directory is not an export directory, or another process is writing there.
    """
    check_root(export_dir)
    with locks.hold_directory(export_dir):
        artifacts.remove_unfinished(export_dir)
        yield


def check_root(export_dir: Path) -> None:
    """Raises an error for a directory with anything that no export wrote.

    Raises:
        ArtifactError: naming the first such entry.
    """
    if not export_dir.exists():
        return
    if not export_dir.is_dir():
        raise ArtifactError(f"{export_dir}: invalid export directory (expected a directory, got a file)")
    versions = {str(version) for version in bundle.list_versions(export_dir)}
    for name in sorted(os.listdir(export_dir)):
        if name not in versions and name not in _OURS and not name.startswith("."):
            raise ArtifactError(
                f"{export_dir}: invalid export directory (expected only bundle versions, got {name!r}); "
                "choose a new or empty directory"
            )


def choose_version(export_dir: Path, version: int | None) -> int:
    """Returns the version to publish: as given, or the UTC time as YYYYMMDDhhmmss, larger than the newest there.

    Raises:
        ConfigError: for a number that no server reads as a version.
        ArtifactError: if the version exists.
    """
    known = bundle.list_versions(export_dir)
    if version is None:
        now = int(datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S"))
        return max([now, *(each + 1 for each in known)])
    if not 0 < version <= _LARGEST:
        raise ConfigError(f"--version: invalid version {version} (expected a whole number from 1 to 2^63 - 1)")
    if version in known:
        raise ArtifactError(f"{export_dir / str(version)}: exists already and is never overwritten; choose another")
    return version


def choose_newest(export_dir: Path, version: int | None) -> int:
    """Returns the version to publish, which has to be the newest.

    Raises:
        ConfigError: for a number that no server reads as a version, or one that is not the largest.
        ArtifactError: if the version exists.
    """
    chosen = choose_version(export_dir, version)
    newest = max(bundle.list_versions(export_dir), default=0)
    if chosen < newest:
        raise ConfigError(
            f"--version: invalid version {chosen} (expected more than {newest}, the newest version, which "
            "servers would keep)"
        )
    return chosen


def remove_old(export_dir: Path, keep: int, published: int) -> list[int]:
    """Removes all but the `keep` newest versions, never the one just published; 0 keeps all.

    A version disappears by one rename before its files are deleted: no reader sees half of one. Where it is a symbolic
    link, only the link is removed.
    """
    known = bundle.list_versions(export_dir)
    removed = [version for version in known[:-keep] if version != published] if keep else []
    for version in removed:
        retired = export_dir / f"{artifacts.UNFINISHED}{version}-retired"
        os.rename(export_dir / str(version), retired)
        if retired.is_symlink():
            retired.unlink()
        else:
            shutil.rmtree(retired)
    return removed
