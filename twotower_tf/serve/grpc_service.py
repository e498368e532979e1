"""gRPC: PredictionService and ModelService of TensorFlow Serving, and the health service."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from twotower_tf.bundle.signature_names import RECOMMEND, SERVING_DEFAULT
from twotower_tf.serve import bearer_token, model_protos, service_errors, signature_tensors
from twotower_tf.serve.access_log import AccessLog
from twotower_tf.serve.retrieval_service import EXTRAS, RetrievalService
from twotower_tf.serve.served_version import ServedVersion
from twotower_tf.serve.service_errors import ServiceError, invalid
from twotower_tf.serve.signature_tensors import Arrays

_BYTES_PER_VALUE = 8  # of a request, about
_LONGEST_ERROR = 1024  # characters
_SIGNATURES = "signature_def"  # the only metadata there is
_SERVICES = ("", "ModelService", "PredictionService")  # of the health service, as TensorFlow Serving names them

_log = logging.getLogger(__name__)
Request, Response = TypeVar("Request"), TypeVar("Response")
Handler = Callable[[Any, float], Awaitable[Any]]


class GrpcService:
    """The server of one port. Belongs to one event loop."""

    def __init__(self, service: RetrievalService, log: AccessLog | None = None) -> None:
        """Starts nothing yet.

        Args:
            service: answers.
            log: gets a line per request.
        """
        options = service.options
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", options.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a port in use is an error
            ],
            maximum_concurrent_rpcs=2 * options.max_queue,
        )
        calls = _Calls(service, log)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(service, calls), self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(service, calls), self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def bind(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        """Takes the port.

        Raises:
            RuntimeError: where it cannot be had.
        """
        if credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def state_health(self, ready: bool) -> None:
        """Sets what the health service answers."""
        states = health_pb2.HealthCheckResponse
        for name in _SERVICES:
            await self._health.set(name, states.SERVING if ready else states.NOT_SERVING)

    async def stop(self, grace: float) -> None:
        """Ends after the open requests, at most after some seconds."""
        await self._server.stop(grace)


class _Calls:
    """What all methods have in common: token, deadline, errors, log, metrics."""

    def __init__(self, service: RetrievalService, log: AccessLog | None) -> None:
        self._service, self._log = service, log

    async def answer(self, method: str, handler: Handler, request: Any, context: Any) -> Any:
        """Answers one request, or ends it with the code and the text of its error."""
        began, code = time.perf_counter(), "CANCELLED"
        try:
            self._check_token(context)
            answer = await handler(request, self._service.deadline(context.time_remaining()))
            code = "OK"
            return answer
        except Exception as error:
            found = service_errors.from_exception(error)
            if not found.known:
                _log.exception("gRPC %s", method)
            code, text = found.code, found.message
            if len(text) > _LONGEST_ERROR:
                text = f"{text[:_LONGEST_ERROR]}...TRUNCATED"
            await context.abort(grpc.StatusCode[code], text)
        finally:
            self._record(method, code, context, time.perf_counter() - began)

    def _check_token(self, context: Any) -> None:
        header = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), "")
        if not bearer_token.matches(self._service.options.token, str(header)):
            raise ServiceError("UNAUTHENTICATED", "Missing or invalid bearer token")

    def _record(self, method: str, code: str, context: Any, seconds: float) -> None:
        self._service.metrics.count("grpc", method, code, seconds)
        if self._log is not None:
            self._log.write(
                protocol="grpc", client=context.peer(), method=method, status=code,
                milliseconds=round(1000 * seconds, 3),
            )  # fmt: skip


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, service: RetrievalService, calls: _Calls) -> None:
        self._service, self._calls = service, calls

    async def Predict(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("Predict", self._predict, request, context)

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("GetModelMetadata", self._metadata, request, context)

    async def Classify(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("Classify", self._refuse, request, context)

    async def Regress(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("Regress", self._refuse, request, context)

    async def MultiInference(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("MultiInference", _refuse_tasks, request, context)

    async def _predict(self, request: Any, deadline: float) -> Any:
        with _find(self._service, request).used() as served:
            name = request.model_spec.signature_name or SERVING_DEFAULT
            signature = signature_tensors.find_signature(served.signatures, name)
            size = request.ByteSize() // _BYTES_PER_VALUE
            arrays = await self._service.work(size, functools.partial(self._read, signature, name), request, deadline)
            wanted = signature_tensors.choose_outputs(signature, request.output_filter)
            outputs = await self._service.predict(served, name, arrays, deadline)
            response = predict_pb2.PredictResponse()
            _state_model(response.model_spec, served, name, self._service.options.model_name)
            chosen = {key: outputs[key] for key in wanted}
            size = sum(array.size for array in chosen.values())
            return await self._service.work(size, functools.partial(_write_outputs, response), chosen, deadline)

    def _read(self, signature: Any, name: str, request: Any) -> Arrays:
        """Reads the tensors of a request, and for `recommend` those that are not inputs of the tower."""
        most = self._service.options.max_request_bytes
        given = dict(sorted(request.inputs.items()))
        extras = {
            key: signature_tensors.read_tensor(key, given.pop(key), most)
            for key in EXTRAS
            if name == RECOMMEND and key in given and key not in signature.inputs
        }
        signature_tensors.check_names(signature, given)
        return {**signature_tensors.read_tensors(signature, given, most), **extras}

    async def _metadata(self, request: Any, deadline: float) -> Any:
        _check_name(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURES:
                raise invalid(f"Metadata field {field} is not supported")
        served = _find(self._service, request)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _state_model(response.model_spec, served, "", self._service.options.model_name)
        response.metadata[_SIGNATURES].Pack(get_model_metadata_pb2.SignatureDefMap(signature_def=served.signatures))
        return response

    async def _refuse(self, request: Any, deadline: float) -> Any:
        served = _find(self._service, request)
        raise model_protos.refuse_examples(served.signatures, request.model_spec.signature_name or SERVING_DEFAULT)


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, service: RetrievalService, calls: _Calls) -> None:
        self._service, self._calls = service, calls

    async def GetModelStatus(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("GetModelStatus", self._status, request, context)

    async def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        return await self._calls.answer("HandleReloadConfigRequest", _refuse_reload, request, context)

    async def _status(self, request: get_model_status_pb2.GetModelStatusRequest, deadline: float) -> Any:
        _check_name(request)
        spec = request.model_spec
        return model_protos.write_status(self._service.manager.statuses(spec.name, _read_version(spec)))


def _write_outputs(response: Any, outputs: Arrays) -> Any:
    for name, array in outputs.items():
        response.outputs[name].CopyFrom(signature_tensors.write_tensor(array))
    return response


async def _refuse_reload(request: Any, deadline: float) -> Any:
    raise ServiceError("UNIMPLEMENTED", "This service has one model, whose versions it finds itself")


async def _refuse_tasks(request: Any, deadline: float) -> Any:
    raise ServiceError("UNIMPLEMENTED", "MultiInference is not served; use Predict")


def _check_name(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")


def _find(service: RetrievalService, request: Any) -> ServedVersion:
    """Returns the version that a request names.

    Raises:
        ServiceError: where it names none, or one that is not available.
    """
    _check_name(request)
    spec = request.model_spec
    return service.manager.find(spec.name, _read_version(spec), spec.version_label)


def _read_version(spec: Any) -> int | None:
    """Returns the version that a request names; None for the newest.

    Bundles have versions from 1 on. 0 is what `ovmsclient` sends for the newest.
    """
    return spec.version.value or None if spec.WhichOneof("version_choice") == "version" else None


def _state_model(spec: Any, served: ServedVersion, signature: str, name: str) -> None:
    spec.name, spec.signature_name = name, signature
    spec.version.value = served.version
