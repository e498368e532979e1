"""Wraps the REST application: bearer token, bound of open requests, access log, metrics."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twotower_tf.serve import bearer_token
from twotower_tf.serve.access_log import AccessLog
from twotower_tf.serve.retrieval_service import RetrievalService

_OPEN = ("/", "/healthz", "/readyz")  # paths without secrets: what orchestrators ask, and the page without its data
_UNKNOWN = "unknown"


class RequestGuard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, service: RetrievalService, log: AccessLog | None) -> None:
        """Keeps all three."""
        self._app, self._service, self._log = app, service, log
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status, size = 0, 0

        async def count(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        self._open += 1
        try:
            refused = self._refuse(scope)
            if refused:
                await _answer(count, *refused)
            else:
                await self._app(scope, receive, count)
        finally:
            self._open -= 1
            self._record(scope, status, size, time.perf_counter() - began)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """Returns the status and the reason of a request that is not answered."""
        options = self._service.options
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"").decode("latin-1")
        if scope["path"] not in _OPEN and not bearer_token.matches(options.token, given):
            return 401, "Missing or invalid bearer token"
        if self._open > 2 * options.max_queue:
            return 429, "Too many open requests; send the request again later"
        return None

    def _record(self, scope: MutableMapping[str, Any], status: int, size: int, seconds: float) -> None:
        method = getattr(scope.get("endpoint"), "__name__", _UNKNOWN)
        self._service.metrics.count("rest", method, str(status), seconds)
        if self._log is not None:
            client = scope.get("client") or ("",)
            self._log.write(
                protocol="rest", client=client[0], method=scope["method"], path=scope["path"][:200], status=status,
                bytes=size, milliseconds=round(1000 * seconds, 3),
            )  # fmt: skip


async def _answer(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"error": reason})})
