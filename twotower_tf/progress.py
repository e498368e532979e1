"""Progress reporting of long work. The command line shows it; a library caller may pass its own function."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives a stage's name, the units done so far and their total (0 where it is not known)."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` units of `stage` are done."""


def silent(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
