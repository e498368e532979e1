"""Takes users' vectors from a TensorFlow Serving that has the user tower, over gRPC."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from twotower_tf.bundle.signature_names import MODEL_VERSION, SERVING_DEFAULT
from twotower_tf.features.layout import VECTOR_LAYERS
from twotower_tf.serve.service_errors import ServiceError
from twotower_tf.serve.service_options import ServiceOptions
from twotower_tf.serve.signature_tensors import Arrays, write_tensor

_VECTOR = VECTOR_LAYERS["user"]
_LARGEST = 64 << 20  # bytes of a response


class RemoteTower:
    """A connection to the server, shared by all requests; belongs to one event loop."""

    def __init__(self, options: ServiceOptions) -> None:
        """Connects at the first request."""
        self._address = options.user_tower
        self._name = options.user_tower_model or options.model_name
        limits = [("grpc.max_receive_message_length", _LARGEST)]
        if options.user_tower_ca:
            credentials = grpc.ssl_channel_credentials(Path(options.user_tower_ca).read_bytes())
            self._channel = grpc.aio.secure_channel(self._address, credentials, limits)
        else:
            self._channel = grpc.aio.insecure_channel(self._address, limits)
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict

    async def embed(self, arrays: Arrays, rows: int, deadline: float) -> tuple[npt.NDArray[np.float32], int]:
        """Returns the users' vectors `[users, vector_dim]` float32, and the version that they are of.

        Args:
            arrays: inputs of signature `serving_default`.
            rows: number of users.
            deadline: on the event loop's clock.

        Raises:
            ServiceError: with the server's own code where it does not answer, or answers with vectors of no version.
        """
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self._name, SERVING_DEFAULT
        request.output_filter.extend([_VECTOR, MODEL_VERSION])
        for name, array in arrays.items():
            request.inputs[name].CopyFrom(write_tensor(array))
        seconds = max(0.0, deadline - asyncio.get_running_loop().time())
        try:
            response: Any = await self._predict(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise ServiceError(error.code().name, f"user tower {self._address}: {error.details()}") from None
        missing = {_VECTOR, MODEL_VERSION} - set(response.outputs)
        if missing:
            raise self._error(f"did not answer with {', '.join(sorted(missing))}")
        vectors = tf.make_ndarray(response.outputs[_VECTOR])
        versions = set(tf.make_ndarray(response.outputs[MODEL_VERSION]).tolist())
        if len(versions) != 1 or response.model_spec.version.value not in (0, *versions):
            raise self._error(f"answered as versions {sorted(versions)}")
        if vectors.ndim != 2 or len(vectors) != rows:
            raise self._error(f"answered {rows} users with vectors of shape {vectors.shape}")
        return vectors, versions.pop()

    def _error(self, reason: str) -> ServiceError:
        return ServiceError("INTERNAL", f"user tower {self._address}: {reason}")

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()
