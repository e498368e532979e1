"""Reads requests' bodies within limits of bytes and time, also where they are compressed."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import AsyncIterator

import anyio
from starlette.requests import Request

from twotower_tf.serve.service_errors import ServiceError, invalid

_GZIP = 16 + zlib.MAX_WBITS
_BODIES = 16  # of the largest size, held at the same time


class BodyTooLarge(ServiceError):
    """A body beyond the limit; over HTTP, status 413."""

    def __init__(self, limit: int) -> None:
        """States the limit."""
        super().__init__("RESOURCE_EXHAUSTED", f"Request body is too large (expected at most {limit} bytes)")

    @property
    def http_status(self) -> int:
        """The HTTP status of a body that is too large."""
        return 413


class BodyReader:
    """Reads bodies within a limit for each and another for all that are held at the same time."""

    def __init__(self, limit: int) -> None:
        """Keeps the limit of one body, in bytes."""
        self._limit = limit
        self._held = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request, seconds: float) -> AsyncIterator[bytes]:
        """Yields the body, decompressed; it counts as held until the block ends.

        Args:
            request: whose body it is.
            seconds: until the body has to be there.

        Raises:
            ServiceError: where it is larger than the limit, is not what its encoding says, is not there in time, or
                where too much is held.
        """
        sizes: list[int] = []
        try:
            try:
                with anyio.fail_after(seconds):
                    body = await self._collect(request, sizes)
            except TimeoutError:
                raise ServiceError("DEADLINE_EXCEEDED", "Deadline exceeded while the body was read") from None
            yield self._decode(request, body, sizes)
        finally:
            self._held -= sum(sizes)

    async def _collect(self, request: Request, sizes: list[int]) -> bytes:
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > self._limit:
            raise BodyTooLarge(self._limit)
        body = bytearray()
        async for part in request.stream():
            self._hold(len(part), sizes)
            body += part
            if len(body) > self._limit:
                raise BodyTooLarge(self._limit)
        return bytes(body)

    def _decode(self, request: Request, body: bytes, sizes: list[int]) -> bytes:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding == "identity":
            return body
        if encoding != "gzip":
            raise invalid(f"Content-Encoding: invalid value {encoding!r} (expected gzip)")
        text = _decompress(body, self._limit)
        self._hold(len(text), sizes)
        return text

    def _hold(self, size: int, sizes: list[int]) -> None:
        if self._held + size > _BODIES * self._limit:
            raise ServiceError("RESOURCE_EXHAUSTED", "Too many large requests; send the request again later")
        self._held += size
        sizes.append(size)


def _decompress(body: bytes, limit: int) -> bytes:
    reader = zlib.decompressobj(_GZIP)
    try:
        text = reader.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"Request body: invalid gzip ({error})") from None
    if len(text) > limit:
        raise BodyTooLarge(limit)
    if not reader.eof:
        raise invalid("Request body: invalid gzip (incomplete)")
    return text
