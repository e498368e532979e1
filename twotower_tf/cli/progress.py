"""Progress on standard error: a bar on a terminal, a line every few seconds otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import NoReturn, TextIO

from tqdm import tqdm

from twotower_tf.progress import Progress

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[Progress]:
    """A `Progress` for the length of a block; on leaving it the last stage is closed."""
    stream = stream or sys.stderr
    display: Bars | Lines = Bars(stream) if stream.isatty() else Lines(stream)
    try:
        yield display
    finally:
        display.close()


class Bars:
    """One tqdm bar per stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Moves the bar of `stage`, opening it where another stage was shown."""
        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close()
            self._stage = stage
            self._bar = tqdm(desc=stage, file=self._stream, unit="", unit_scale=True)
        bar = self._bar
        bar.total = total or None
        bar.update(done - bar.n)

    def close(self) -> None:
        """Leaves the bar on the terminal as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """A plain line at most every ten seconds, and one when a stage is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._started = self._told = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tells how far `stage` is, if it is time to."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._told = stage, now, now
        finished = total > 0 and done >= total
        if finished or now - self._told >= SECONDS_BETWEEN_LINES:
            share = f" of {total:,} ({done / total:.0%})" if total else ""
            print(f"{stage}: {done:,}{share}, {now - self._started:.1f} s", file=self._stream, flush=True)
            self._told = now
        if finished:
            self._stage = ""

    def close(self) -> None:
        """Nothing is left open."""
