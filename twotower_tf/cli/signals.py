"""SIGINT and SIGTERM end a command alike: what is unfinished is removed, and the exit status says which it was."""

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
    """The first signal that asked the command to end; None so far."""

    number: signal.Signals | None = None


@contextlib.contextmanager
def noticed() -> Iterator[Received]:
    """Raises KeyboardInterrupt for either signal, and keeps which it was: libraries make errors of their own of it.

    A second SIGTERM does not disturb the cleaning up that the first one began. A signal that the process ignores (after
    `nohup`, say) is ignored still.
    """
    received = Received()

    def end(number: int, frame: FrameType | None) -> None:
        if received.number is None or number == signal.SIGINT:
            received.number = received.number or signal.Signals(number)
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        before = {number: signal.getsignal(number) for number in NAMES}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in ours:
        signal.signal(number, end)
    try:
        yield received
    finally:
        for number in ours:
            signal.signal(number, before[number])
