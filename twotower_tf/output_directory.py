"""Checks that an output directory may be replaced."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from twotower_tf.errors import DataError


def check_replaceable(output: Path, names: Collection[str], mark: str, kind: str) -> None:
    """Checks that a directory is missing, empty, or an earlier output of the same kind.

    An output of the `kind` always has the entry `mark`, and no entries but `names`.

    Raises:
        DataError: where writing would delete other files.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise DataError(f"--output: invalid directory '{output}' (it is a file); choose an empty or new directory")
    found = {path.name for path in output.iterdir()}
    foreign = sorted(found - set(names) if mark in found else found)
    if foreign:
        raise DataError(
            f"--output: invalid directory '{output}' (it has {foreign[0]!r}, which does not belong to {kind} and would "
            "be deleted); choose an empty or new directory"
        )
