"""REST: the paths of TensorFlow Serving, `:recommend` and `:similar`, health, metrics and the page."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from google.protobuf import json_format
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from twotower_tf import __version__
from twotower_tf.bundle.signature_names import RECOMMEND, SERVING_DEFAULT
from twotower_tf.serve import json_tensors, model_protos, page_data, rest_schemas, service_errors
from twotower_tf.serve.access_log import AccessLog
from twotower_tf.serve.recommendations import Answer
from twotower_tf.serve.request_bodies import BodyReader
from twotower_tf.serve.request_guard import RequestGuard
from twotower_tf.serve.retrieval_service import EXCLUDE, FILTER, K, RetrievalService, Wish
from twotower_tf.serve.service_errors import ServiceError, invalid

_LARGEST_VERSION = 2**63 - 1
_DEFAULT_K = 10
_KNOWN = {
    "recommend": {"instances", K, EXCLUDE, FILTER, "names"},
    "similar": {"item", K, FILTER, "names"},
}
_EXTRA_TYPES = {K: types_pb2.DT_INT64, EXCLUDE: types_pb2.DT_STRING, FILTER: types_pb2.DT_STRING}

_BYTES_PER_VALUE = 16  # of JSON, about

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Post:
    """A request with a body.

    Attributes:
        request: path and headers.
        document: the body.
        size: about how many values it has.
        deadline: on the event loop's clock.
    """

    request: Request
    document: dict[str, Any]
    size: int
    deadline: float


class _EmptyBody(Exception):
    """A version that no int64 holds: TensorFlow Serving answers 400 without a body."""


class _Route(APIRoute):
    """A path in letters of any case, whose handler gets the request as it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.path_regex = re.compile(self.path_regex.pattern, re.IGNORECASE)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the endpoint itself: the handlers read bodies and answer errors as TensorFlow Serving does."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def build_app(service: RetrievalService, log: AccessLog | None = None) -> ASGIApp:
    """Builds the application.

    Args:
        service: answers.
        log: gets a line per request.
    """
    app = FastAPI(title="twotower_tf", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    rest = _Rest(service)
    router = app.router
    router.route_class = _Route
    for place in ("", "/versions/{version}", "/labels/{label}"):
        model = "/v1/models/{model}" + place
        for method, handler in (("predict", rest.predict), ("recommend", rest.recommend), ("similar", rest.similar)):
            extra = rest_schemas.body(method)
            _add(router, f"{model}:{method}", handler, "POST", place, extra)
        for method in ("classify", "regress"):
            _add(router, f"{model}:{method}", rest.classify_or_regress, "POST", place, rest_schemas.body(method))
        _add(router, f"{model}/metadata", rest.metadata, "GET", place)
        _add(router, model, rest.status, "GET", place)
    for path, probe in (("/healthz", rest.healthz), ("/readyz", rest.readyz), ("/metrics", rest.metrics)):
        router.add_api_route(path, probe, methods=["GET"], responses=rest_schemas.RESPONSES)
        router.add_api_route(path, probe, methods=["HEAD"], include_in_schema=False)  # what load balancers may send
    if service.options.page:
        router.add_api_route("/", rest.page, methods=["GET"], include_in_schema=False)
        router.add_api_route("/page.json", rest.page_data, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(HTTPException, _answer_unknown_path)
    return RequestGuard(app, service, log)


def _add(
    router: APIRouter, path: str, handler: Callable[[Request], Awaitable[Response]], method: str, place: str,
    extra: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    router.add_api_route(
        path,
        handler,
        methods=[method],
        operation_id=re.sub(r"\W+", "_", f"{method}{path}"),
        responses=rest_schemas.RESPONSES,
        openapi_extra={"parameters": rest_schemas.parameters(place), **(extra or {})},
    )


async def _answer_unknown_path(request: Request, error: Exception) -> Response:
    """Answers a path or method that does not exist: 400 below /v1/, 404 elsewhere, as TensorFlow Serving."""
    path = request.scope["path"].lower()
    if path.rstrip("/") == "/v1/models" and request.method == "GET":
        return _error(invalid("Missing model name in request."))
    if path.startswith("/v1/"):
        return _error(_malformed(request))
    status = getattr(error, "status_code", 404)
    return _json(orjson.dumps({"error": getattr(error, "detail", "Not Found")}), status)


def _malformed(request: Request) -> ServiceError:
    return invalid(f"Malformed request: {request.method} {request.scope['path']}")


class _Rest:
    """The handlers; every one answers errors as `{"error": message}`."""

    def __init__(self, service: RetrievalService) -> None:
        self._service = service
        self._bodies = BodyReader(service.options.max_request_bytes)

    async def predict(self, request: Request) -> Response:
        """Computes a signature's outputs."""
        return await self._answer_body(self._predict, request)

    async def recommend(self, request: Request) -> Response:
        """Recommends items to users."""
        return await self._answer_body(self._recommend, request)

    async def similar(self, request: Request) -> Response:
        """Finds the items nearest to an item."""
        return await self._answer_body(self._similar, request)

    async def classify_or_regress(self, request: Request) -> Response:
        """Refuses: no signature of a user tower classifies or regresses."""
        return await self._answer_body(self._classify_or_regress, request)

    async def status(self, request: Request) -> Response:
        """States the versions of a model."""
        return await _answer(self._status, request)

    async def metadata(self, request: Request) -> Response:
        """States the signatures of a version."""
        return await _answer(self._metadata, request)

    async def page_data(self, request: Request) -> Response:
        """What the page shows of the model."""
        return await _answer(self._page_data, request)

    async def page(self, request: Request) -> Response:
        """The page for people."""
        return HTMLResponse(page_data.read_page(), headers=page_data.headers())

    async def healthz(self, request: Request) -> Response:
        """Whether the process lives."""
        return _json(b'{"status": "ok"}')

    async def readyz(self, request: Request) -> Response:
        """Whether requests can be answered."""
        ready = self._service.ready
        return _json(orjson.dumps({"ready": ready}), 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer_body(self, handler: Callable[[_Post], Awaitable[bytes]], request: Request) -> Response:
        """Answers a request that has a body; its deadline begins before the body is read."""

        async def answer(request: Request) -> bytes:
            service = self._service
            deadline = service.deadline()
            async with self._bodies.read(request, service.options.timeout_seconds) as body:
                size = len(body) // _BYTES_PER_VALUE
                document = await service.work(size, json_tensors.parse_object, body, deadline)
                return await handler(_Post(request, document, size, deadline))

        return await _answer(answer, request)

    async def _predict(self, post: _Post) -> bytes:
        name = json_tensors.read_signature_name(post.document, SERVING_DEFAULT)
        with self._service.manager.find(*_spec(post.request)).used() as served:
            if name not in served.signatures:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            types = {key: info.dtype for key, info in served.signatures[name].inputs.items()}
            given = post.document.get("inputs")
            if name == RECOMMEND and isinstance(given, dict):
                types = {key: dtype for key, dtype in _EXTRA_TYPES.items() if key in given} | types
            arrays, by_row = await self._service.work(
                post.size, functools.partial(json_tensors.read_inputs, inputs=types), post.document, post.deadline
            )
            outputs = await self._service.predict(served, name, arrays, post.deadline)
        write = json_tensors.write_rows if by_row else json_tensors.write_columns
        size = sum(array.size for array in outputs.values())
        return await self._service.work(size, write, outputs, post.deadline)

    async def _recommend(self, post: _Post) -> bytes:
        wish = _read_wish(post.document, "recommend")
        if "instances" not in post.document:
            raise invalid("Missing 'instances' key")
        rows = json_tensors.check_instances(post.document)
        with self._service.manager.find(*_spec(post.request)).used() as served:
            answers, version = await self._service.recommend(served, rows, wish, post.deadline)
        return await self._write(answers, version, post.deadline)

    async def _similar(self, post: _Post) -> bytes:
        wish = _read_wish(post.document, "similar")
        if not isinstance(post.document.get("item"), str | int) or isinstance(post.document["item"], bool):
            raise invalid("item: missing or invalid value (expected the id or the name of an item)")
        with self._service.manager.find(*_spec(post.request)).used() as served:
            answer = await self._service.similar(served, post.document["item"], wish, post.deadline)
        return await self._write([answer], answer["model_version"], post.deadline)

    async def _write(self, answers: list[Answer], version: int, deadline: float) -> bytes:
        size = sum(len(each["scores"]) for each in answers)
        return await self._service.work(size, lambda found: _write_answers(found, version), answers, deadline)

    async def _classify_or_regress(self, post: _Post) -> bytes:
        name = json_tensors.read_signature_name(post.document, SERVING_DEFAULT)
        with self._service.manager.find(*_spec(post.request)).used() as served:
            raise model_protos.refuse_examples(served.signatures, name)

    async def _status(self, request: Request) -> bytes:
        model, version, _ = _spec(request)
        response = model_protos.write_status(self._service.manager.statuses(model, version))
        text: str = json_format.MessageToJson(
            response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        return text.encode()

    async def _metadata(self, request: Request) -> bytes:
        served = self._service.manager.find(*_spec(request))
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=served.signatures)
        document = json_format.MessageToDict(
            signatures, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        model = {
            "name": self._service.options.model_name,
            "signature_name": "",
            "version": str(served.version),
        }
        return orjson.dumps({"model_spec": model, "metadata": {"signature_def": document}}, option=orjson.OPT_INDENT_2)

    async def _page_data(self, request: Request) -> bytes:
        served = self._service.manager.find(self._service.options.model_name)
        return orjson.dumps(page_data.describe(served, self._service.options.model_name))


def _spec(request: Request) -> tuple[str, int | None, str]:
    """Returns name, version and label of the model in a path.

    Raises:
        ServiceError, _EmptyBody: where the version is not a number, or is not an int64.
    """
    values = request.path_params
    text = values.get("version")
    if text is None:
        return values["model"], None, values.get("label", "")
    if not (text.isascii() and text.isdecimal()):
        raise invalid(f"Malformed request: {request.method} {request.scope['path']}")
    if len(text) > 40 or int(text) > _LARGEST_VERSION:
        raise _EmptyBody
    return values["model"], int(text), ""


def _read_wish(document: Mapping[str, Any], method: str) -> Wish:
    for key in document:
        if key not in _KNOWN[method]:
            raise invalid(f"unknown key {key!r} (expected {service_errors.join_names(list(_KNOWN[method]))})")
    predicate, names = document.get(FILTER, ""), document.get("names", False)
    if not isinstance(predicate, str) or not isinstance(names, bool):
        raise invalid("filter, names: invalid value (expected a text, and true or false)")
    return Wish(document.get(K, _DEFAULT_K), document.get(EXCLUDE), predicate, names)


def _write_answers(answers: list[Answer], version: int) -> bytes:
    predictions = [
        {key: value for key, value in answer.items() if key not in ("model_version", "scores")}
        | {"scores": orjson.Fragment(f"[{','.join(json_tensors.write_scores(answer['scores']))}]")}
        for answer in answers
    ]
    return orjson.dumps({"predictions": predictions, "model_version": version})


async def _answer(handler: Callable[[Request], Awaitable[bytes]], request: Request) -> Response:
    try:
        return _json(await handler(request))
    except _EmptyBody:
        return Response(b"", 400, media_type="application/json")
    except Exception as error:
        found = service_errors.from_exception(error)
        if not found.known:
            _log.exception("%s %s", request.method, request.scope["path"])
        return _error(found)


def _error(error: ServiceError) -> Response:
    text = error.message.encode("utf-8", "replace").decode()  # half of a surrogate pair is not text
    return _json(orjson.dumps({"error": text}), error.http_status)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
