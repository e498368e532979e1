"""Escapes control characters in printed text, so that ids and names from data cannot control the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from twotower_tf.characters import escape_controls


class Escaping:
    """A text stream that escapes control characters; see `characters.escape_controls`.

    Attributes:
        unescaped: the wrapped stream, for the progress bar, which needs control characters.
    """

    def __init__(self, stream: TextIO) -> None:
        self.unescaped = stream

    def write(self, text: str) -> int:
        """Writes a text; returns its length."""
        self.unescaped.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


@contextlib.contextmanager
def escaping() -> Iterator[None]:
    """Escapes the text printed to standard output and standard error, as a context manager."""
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, Escaping(out)), cast(TextIO, Escaping(err))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err


def hide_library_lines() -> None:
    """Hides what C++ libraries write to standard error until the process ends; Python still writes there.

    TensorFlow's runtime between processes ignores TF_CPP_MIN_LOG_LEVEL, below 2 of which nothing is hidden.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
        return
    sys.stderr.flush()
    kept = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = cast(TextIO, Escaping(kept))
