"""Handles SIGINT and SIGTERM alike: unfinished output is removed, and the exit status names the signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@dataclass
class Received:
    """Holds the first signal received; None before."""

    number: signal.Signals | None = None


@contextlib.contextmanager
def noticed() -> Iterator[Received]:
    """Raises KeyboardInterrupt for either signal and records which one, as libraries may turn it into other errors.

    A second SIGTERM does not interrupt the cleanup started by the first. A signal that the process ignores already
    (e.g. after `nohup`) stays ignored.
    """
    received = Received()

    def end(number: int, frame: FrameType | None) -> None:
        if received.number is None or number == signal.SIGINT:
            received.number = received.number or signal.Signals(number)
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        before = {number: signal.getsignal(number) for number in NAMES}
    handled = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in handled:
        signal.signal(number, end)
    try:
        yield received
    finally:
        for number in handled:
            signal.signal(number, before[number])
