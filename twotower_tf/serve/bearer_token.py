"""Compares bearer tokens."""

from __future__ import annotations

import hmac

_SCHEME = "bearer "


def matches(expected: str, header: str) -> bool:
    """Returns whether an `Authorization` header has the token; any does where no token is expected."""
    if not expected:
        return True
    if header[: len(_SCHEME)].lower() != _SCHEME:
        return False
    return hmac.compare_digest(header[len(_SCHEME) :].strip().encode(), expected.encode())
