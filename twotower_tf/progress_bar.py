"""Shows progress: a bar on a terminal and in a notebook, a line every few seconds otherwise."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

from twotower_tf.progress import Progress

SECONDS_BETWEEN_LINES = 10.0

Note = Callable[[], str]


@contextlib.contextmanager
def shown(stream: TextIO | None = None, note: Note = lambda: "") -> Iterator[Progress]:
    """Yields a `Progress` for the length of a block and closes its last bar afterwards.

    Args:
        stream: standard error by default. Of a stream that escapes control characters (`unescaped`), the stream behind
            it: a bar has to move the cursor.
        note: returns text to show after the figures, e.g. the memory in use.
    """
    stream = stream or sys.stderr
    stream = getattr(stream, "unescaped", stream)
    display: Bars | Lines = Bars(stream, note) if stream.isatty() else Lines(stream, note)
    with contextlib.closing(display):
        yield display


@contextlib.contextmanager
def shown_in_notebook() -> Iterator[Progress | None]:
    """Yields a `Progress` with bars under IPython, widgets where the notebook has them, and None elsewhere."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        yield None
        return
    from tqdm.auto import tqdm as notebook_tqdm

    with contextlib.closing(Bars(None, bar_class=notebook_tqdm)) as display:
        yield display


class Bars:
    """One tqdm bar per stage."""

    def __init__(self, stream: TextIO | None, note: Note = lambda: "", bar_class: Callable[..., Any] = tqdm) -> None:
        self._stream, self._note, self._bar_class = stream, note, bar_class
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Moves the bar of `stage`, opening it where another stage was shown."""
        if self._bar is None or stage != self._stage or done < self._bar.n:
            self.close()
            self._stage = stage
            self._bar = self._bar_class(desc=stage, file=self._stream, unit="", unit_scale=True)
        bar = self._bar
        bar.total = total or None
        if text := self._note():
            bar.set_postfix_str(text, refresh=False)
        bar.update(done - bar.n)

    def close(self) -> None:
        """Closes the bar, which stays on the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines:
    """Prints a line at most every ten seconds, and one at the end of a stage: units, rate, time left."""

    def __init__(self, stream: TextIO, note: Note = lambda: "") -> None:
        self._stream, self._note = stream, note
        self._stage = ""
        self._started = self._printed = 0.0
        self._before = 0  # units done at the first call for this stage

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Prints the progress of `stage` if the last line is old enough, or the stage is done."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._printed, self._before = stage, now, now, done
        finished = total > 0 and done >= total
        if finished or now - self._printed >= SECONDS_BETWEEN_LINES:
            share = f" of {total:,} ({done / total:.0%})" if total else ""
            text = f"{stage}: {done:,}{share}, {now - self._started:.1f} s"
            rate = (done - self._before) / max(now - self._started, 1e-9)
            if not finished and rate > 0:
                text += f", {rate:,.0f}/s" if rate >= 1 else ""
                text += f", {(total - done) / rate:,.0f} s left" if total else ""
            print(", ".join(filter(None, [text, self._note()])), file=self._stream, flush=True)
            self._printed = now
        if finished:
            self._stage = ""

    def close(self) -> None:
        """Does nothing: every line is complete."""
