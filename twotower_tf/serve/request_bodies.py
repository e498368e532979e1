"""Reads a request's body within a limit of bytes, also where it is compressed."""

from __future__ import annotations

import zlib

from starlette.requests import Request

from twotower_tf.serve.service_errors import ServiceError, invalid

_GZIP = 16 + zlib.MAX_WBITS


class BodyTooLarge(ServiceError):
    """A body beyond the limit; over HTTP, status 413."""

    def __init__(self, limit: int) -> None:
        """States the limit."""
        super().__init__("RESOURCE_EXHAUSTED", f"Request body is too large (expected at most {limit} bytes)")

    @property
    def http_status(self) -> int:
        """The HTTP status of a body that is too large."""
        return 413


async def read_body(request: Request, limit: int) -> bytes:
    """Returns the body, decompressed.

    Raises:
        ServiceError: where it is larger than the limit, or is not what its encoding says.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise BodyTooLarge(limit)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return bytes(body)
    if encoding != "gzip":
        raise invalid(f"Content-Encoding: invalid value {encoding!r} (expected gzip)")
    return _decompress(bytes(body), limit)


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
