"""What every bad input becomes: one clear line and, at the command line, exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TwoTowerError(Exception):
    """Base of the errors a user can mend. The message is one line: the rule, what came, where, what to do."""


class ConfigError(TwoTowerError):
    """A configuration, flag or override that cannot be used. Names the field."""


class DataError(TwoTowerError):
    """Input data that cannot be used. Names the file and, where there is one, the line or column."""


class ArtifactError(TwoTowerError):
    """A run directory, bundle or file of ours that is missing, damaged, or of another version."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns `unknown KIND 'NAME'` with the nearest known name, or the known ones where none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"unknown {kind} {name!r}; did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}"
