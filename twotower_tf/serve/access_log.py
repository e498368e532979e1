"""The access log: one line of JSON per request, without what the request says about a user."""

from __future__ import annotations

import logging
import queue
import sys
from datetime import datetime, timezone
from logging.handlers import QueueHandler, QueueListener
from typing import Any, TextIO

import orjson

_WAITING = 10_000  # lines; where the reader of the log is slower than the requests, lines are lost, not requests


class AccessLog:
    """Writes lines in a thread of its own: a slow reader does not delay requests."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Starts writing to a stream, by default standard output."""
        self._logger = logging.Logger("twotower_tf.access", logging.INFO)
        lines: queue.Queue[Any] = queue.Queue(_WAITING)
        handler = QueueHandler(lines)
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        self._logger.addHandler(handler)
        self._listener = QueueListener(lines, logging.StreamHandler(stream or sys.stdout))
        self._listener.start()

    def write(self, **fields: Any) -> None:
        """Writes one request."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._logger.info("%s", orjson.dumps({"time": now, **fields}).decode())

    def close(self) -> None:
        """Writes what waits, and stops."""
        self._listener.stop()
