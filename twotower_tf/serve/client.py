"""A client of the service: data frame in, data frame out, over REST or gRPC, with a deadline and retries.

    client = RetrievalClient("http://localhost:8501", "shop")
    client.recommend_frame(users, k=10)

A column of `users` is a feature. Over REST its values are read in the forms of the log, as `Recommender` reads them;
over gRPC they are sent as TensorFlow Serving takes them: texts as they are, times as epoch seconds (ISO 8601 and time
types are converted).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

import orjson

from twotower_tf.errors import ConfigError, DataError, TwoTowerError
from twotower_tf.tables.frame_values import is_gap, list_scalars

if TYPE_CHECKING:
    import pandas as pd

_RETRIED = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")  # what another try may mend
_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 413: "INVALID_ARGUMENT",
          429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
_CONNECTIONS = 32  # kept open: a thread that finds none opens another one, which is closed after its request
_FIRST_WAIT = 0.05  # seconds before the second try; doubled from try to try, and varied by half
_TITLES = ("user", "rank", "item_id", "score", "model_version")

Answer = dict[str, Any]


class RequestFailed(TwoTowerError):
    """The service refused a request, or did not answer in time.

    Attributes:
        code: the name of a gRPC status code.
    """

    def __init__(self, code: str, message: str) -> None:
        """Keeps both."""
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class _Request:
    rows: Sequence[Mapping[str, Any]]
    k: int
    exclude: Sequence[Sequence[str]] | None
    filter: str


class _Transport(Protocol):
    def send(self, request: _Request, seconds: float) -> list[Answer]:
        """Sends a request, once."""

    def close(self) -> None:
        """Ends the connections."""


class RetrievalClient:
    """Connections to a service; may be used from several threads."""

    def __init__(
        self,
        address: str,
        model_name: str,
        *,
        token: str = "",
        timeout_seconds: float = 10.0,
        retries: int = 3,
        batch_size: int = 256,
        ca_file: str | None = None,
    ) -> None:
        """Connects at the first request.

        Args:
            address: `http://HOST:PORT` or `https://...` for REST, `grpc://HOST:PORT` or `grpcs://...` for gRPC.
            model_name: name of the model there.
            token: bearer token; "" for none.
            timeout_seconds: deadline of a call, all its requests and tries included.
            retries: further tries of a request where the service is not available or its queue is full.
            batch_size: users of one request.
            ca_file: PEM file of the certificates to trust, for TLS.

        Raises:
            ConfigError: for an address of another kind.
        """
        parts = urlsplit(address)
        kinds: dict[str, Callable[..., _Transport]] = {
            "http": _Rest, "https": _Rest, "grpc": _Grpc, "grpcs": _Grpc
        }  # fmt: skip
        if parts.scheme not in kinds or not parts.netloc:
            raise ConfigError(
                f"address: invalid value {address!r} (expected http://HOST:PORT, https://, grpc:// or grpcs://)"
            )
        self._transport = kinds[parts.scheme](address, model_name, token, ca_file)
        self._seconds, self._retries, self._batch_size = timeout_seconds, retries, batch_size

    def __enter__(self) -> RetrievalClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._transport.close()

    def recommend(
        self,
        rows: Sequence[Mapping[str, Any]],
        k: int = 10,
        exclude: Sequence[Iterable[Any]] | None = None,
        filter: str = "",
    ) -> list[Answer]:
        """Recommends items to users.

        Args:
            rows: feature values of each user; an absent feature has no value.
            k: number of items.
            exclude: per user, ids of items not to answer.
            filter: SQL expression over the catalogue's columns.

        Returns:
            `{"item_ids": [...], "scores": [...], "model_version": V}` per user, best first.

        Raises:
            DataError: for another number of lists to exclude than of users.
            RequestFailed: where the service refuses, or does not answer before the deadline.
        """
        if exclude is not None and len(exclude) != len(rows):
            raise DataError(f"exclude: invalid number of lists {len(exclude)} (expected {len(rows)}, one per user)")
        end = time.monotonic() + self._seconds
        lists = None if exclude is None else [[str(item) for item in items] for items in exclude]
        answers: list[Answer] = []
        for start in range(0, len(rows), self._batch_size):
            part = slice(start, start + self._batch_size)
            request = _Request(rows[part], k, None if lists is None else lists[part], filter)
            answers += self._try(request, end)
        return answers

    def recommend_frame(
        self, users: pd.DataFrame, k: int = 10, filter: str = "", exclude: Sequence[Iterable[Any]] | None = None
    ) -> pd.DataFrame:
        """Recommends items to each row of a data frame.

        Args:
            users: one row per user, one column per feature; NaN, None and NA mean no value.
            k: number of items.
            filter: SQL expression over the catalogue's columns.
            exclude: per row, ids of items not to answer.

        Returns:
            One row per answer: `user`, the row's index label in `users`; `rank`, from 1; `item_id`; `score`, the cosine
            similarity; `model_version`.

        Raises:
            DataError, RequestFailed: as `recommend` says.
        """
        import pandas as pd

        columns = {str(name): list_scalars(users[name]) for name in users.columns}
        rows = [
            {name: values[place] for name, values in columns.items() if not is_gap(values[place])}
            for place in range(len(users))
        ]
        found = [
            (label, rank, item, score, answer["model_version"])
            for label, answer in zip(users.index, self.recommend(rows, k, exclude, filter), strict=True)
            for rank, (item, score) in enumerate(zip(answer["item_ids"], answer["scores"], strict=True), 1)
        ]
        frame: pd.DataFrame = pd.DataFrame(found, columns=list(_TITLES))
        return frame

    def _try(self, request: _Request, end: float) -> list[Answer]:
        for attempt in range(self._retries + 1):
            seconds = end - time.monotonic()
            if seconds <= 0:
                raise RequestFailed("DEADLINE_EXCEEDED", f"no answer within {self._seconds:g} s")
            try:
                return self._transport.send(request, seconds)
            except RequestFailed as error:
                if error.code not in _RETRIED or attempt == self._retries:
                    raise
            wait = _FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.5)
            time.sleep(max(0.0, min(wait, end - time.monotonic())))
        raise AssertionError("unreachable")


class _Rest:
    def __init__(self, address: str, model_name: str, token: str, ca_file: str | None) -> None:
        import urllib3

        self._errors = urllib3.exceptions
        self._timeout = urllib3.Timeout
        self._pool = urllib3.PoolManager(retries=False, ca_certs=ca_file, maxsize=_CONNECTIONS)
        self._url = f"{address.rstrip('/')}/v1/models/{quote(model_name, safe='')}:recommend"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def send(self, request: _Request, seconds: float) -> list[Answer]:
        extras = {} if request.exclude is None else {"exclude": request.exclude}
        document = {"instances": request.rows, "k": request.k, "filter": request.filter, **extras}
        try:
            body = orjson.dumps(document, default=_to_json, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            raise DataError(f"rows: invalid value ({error})") from None
        try:
            answer = self._pool.request(
                "POST", self._url, body=body, headers=self._headers, timeout=self._timeout(total=seconds)
            )
        except self._errors.TimeoutError:
            raise RequestFailed("DEADLINE_EXCEEDED", f"{self._url}: no answer in time") from None
        except self._errors.HTTPError as error:
            raise RequestFailed("UNAVAILABLE", f"{self._url}: {error}") from None
        if answer.status != 200:
            raise RequestFailed(_CODES.get(answer.status, "UNKNOWN"), _read_error(answer.data))
        document = orjson.loads(answer.data)
        return [{**each, "model_version": document["model_version"]} for each in document["predictions"]]

    def close(self) -> None:
        self._pool.clear()


class _Grpc:
    def __init__(self, address: str, model_name: str, token: str, ca_file: str | None) -> None:
        import grpc

        from twotower_tf.serve import grpc_requests

        parts = urlsplit(address)
        self._grpc, self._requests, self._name = grpc, grpc_requests, model_name
        self._inputs: Any = None
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        options = [("grpc.max_receive_message_length", -1)]
        if parts.scheme == "grpcs":
            trusted = None
            if ca_file is not None:
                with open(ca_file, "rb") as file:
                    trusted = file.read()
            credentials = grpc.ssl_channel_credentials(trusted)
            self._channel = grpc.secure_channel(parts.netloc, credentials, options)
        else:
            self._channel = grpc.insecure_channel(parts.netloc, options)

    def send(self, request: _Request, seconds: float) -> list[Answer]:
        call = {"timeout": seconds, "metadata": self._metadata}
        try:
            if self._inputs is None:
                self._inputs = self._requests.fetch_inputs(self._channel, self._name, call)
            return self._requests.recommend(
                self._channel, self._name, self._inputs, request.rows, request.k, request.exclude, request.filter, call
            )
        except self._grpc.RpcError as error:
            raise RequestFailed(error.code().name, str(error.details())) from None

    def close(self) -> None:
        self._channel.close()


def _read_error(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _to_json(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is not a value of a feature")
