"""A connection on which JSON objects are sent, one on each line. One thread may send while another receives."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

_LONGEST = 1 << 22  # bytes of an object: a configuration may have hundreds of features
_SENDING = 5.0  # seconds that sending may take


class LineSocket:
    """Wraps a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SENDING)
        self._connection = connection
        self._received = b""

    def send(self, document: Mapping[str, Any]) -> bool:
        """Sends an object; returns False where the other end is gone."""
        try:
            self._connection.sendall(json.dumps(document).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self, seconds: float) -> dict[str, Any]:
        """Returns the next object; {} where another thing comes, nothing in time, or the other end is gone."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError, ValueError):
            while b"\n" not in self._received and len(self._received) < _LONGEST:
                if not self._wait(deadline - time.monotonic()):
                    return {}
                part = self._connection.recv(1 << 16)
                if not part:
                    return {}
                self._received += part
            line, _, self._received = self._received.partition(b"\n")
            document = json.loads(line)
            return document if isinstance(document, dict) else {}
        return {}

    def is_open(self) -> bool:
        """Tests whether the other end is there; for one that does not send now."""
        with contextlib.suppress(OSError):
            return not self._wait(0.0) or bool(self._connection.recv(1, socket.MSG_PEEK))
        return False

    def close(self) -> None:
        """Ends the connection, also for a thread that receives."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _wait(self, seconds: float) -> bool:
        """Waits for something to read, or the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, seconds)))
