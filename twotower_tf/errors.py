"""Errors for the user: one clear line each and, at the command line, exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TwoTowerError(Exception):
    """Base class of user-facing errors.

    The message is one line with the place, the rule, the value given and what to do.

    Attributes:
        exit_status: of a command that ends with the error.
    """

    exit_status = 2


class ConfigError(TwoTowerError):
    """Invalid configuration, flag or override. The message names the field."""


class DataError(TwoTowerError):
    """Invalid input data. The message names the file and, where there is one, the line or column."""


class ArtifactError(TwoTowerError):
    """Missing, damaged or incompatible run directory, bundle or file that twotower wrote."""


class LostWorkerError(TwoTowerError):
    """Another worker of the same training has ended or does not answer. All workers can resume from the checkpoint."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed when it is repeated


class FailedWorkerError(TwoTowerError):
    """A process of a local cluster has failed; its own last line says why."""

    def __init__(self, message: str, exit_status: int) -> None:
        """`exit_status` is that of the process."""
        super().__init__(message)
        self.exit_status = exit_status


def raise_first(lines: Iterable[str]) -> None:
    """Raises a `DataError` of the first line, where there is one."""
    for line in lines:
        raise DataError(line)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns `unknown KIND 'NAME'` with the nearest known name, or the known ones where none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}"
