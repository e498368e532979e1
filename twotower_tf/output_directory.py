"""Directories that a command writes whole: what may stand there before."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from twotower_tf.errors import DataError


def check_replaceable(output: Path, names: Collection[str], mark: str, kind: str) -> None:
    """Lets pass a directory that is missing, empty, or holds an earlier output of the same kind.

    Args:
        output: the directory to be written.
        names: every name such an output may hold.
        mark: the one that it always holds.
        kind: what it is, for the message.

    Raises:
        DataError: where writing would lose something else.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise DataError(f"{output}: is a file; --output names a directory to write")
    found = {path.name for path in output.iterdir()}
    foreign = sorted(found - set(names) if mark in found else found)
    if foreign:
        raise DataError(
            f"{output}: holds {foreign[0]!r}, which is no part of {kind} and would be lost; "
            "choose an empty or new directory"
        )
