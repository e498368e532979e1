"""Errors of one request: a gRPC status code and a message, as TensorFlow Serving answers with them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import grpc

from twotower_tf.errors import ConfigError, DataError

# HTTP status of each code; see `HttpStatusFromGrpc` in TensorFlow Serving's http_server.
HTTP_STATUS = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_PLACE = re.compile(r"Graph execution error:|Detected at node|<stack traces|\s")  # lines of a graph's error
_INTERNAL = "internal error; the service's log has the reason"


class ServiceError(Exception):
    """A request that cannot be answered.

    Attributes:
        code: the name of a `grpc.StatusCode`.
        message: for the client.
        known: False for a fault of the service, whose reason is for its log alone.
    """

    def __init__(self, code: str, message: str, known: bool = True) -> None:
        """Keeps both."""
        super().__init__(message)
        self.code, self.message, self.known = code, message, known

    @property
    def http_status(self) -> int:
        """The HTTP status of the code."""
        return HTTP_STATUS[self.code]


def invalid(message: str) -> ServiceError:
    """Returns an INVALID_ARGUMENT error."""
    return ServiceError("INVALID_ARGUMENT", message)


def from_exception(error: BaseException) -> ServiceError:
    """Returns the error of a request for whatever stopped it: a client's mistake keeps its message."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, DataError | ConfigError):
        return invalid(str(error))
    return ServiceError("INTERNAL", _INTERNAL, known=False)


def from_tensorflow(error: BaseException) -> ServiceError:
    """Returns the error of a request whose graph failed: with TensorFlow's own code, where it has one."""
    import tensorflow as tf

    if isinstance(error, tf.errors.OpError):
        return ServiceError(_NAMES[error.error_code], _shorten(str(error.message)))
    if isinstance(error, ValueError | TypeError):  # arguments that do not fit the signature
        return invalid(_shorten(str(error)))
    return from_exception(error)


def _shorten(message: str) -> str:
    """Returns what an operation says, without where in the graph and in which file it was defined."""
    lines = [line for line in message.splitlines() if line and not _PLACE.match(line)]
    return " ".join(lines) or message


def join_names(names: Sequence[str]) -> str:
    """Joins names as TensorFlow Serving does: sorted, with commas."""
    return ",".join(sorted(names))
