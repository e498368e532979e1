"""Warm-up requests: a server runs them before it takes traffic, so that no user waits for the first call.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `PredictionLog`; one failing record fails the model's
loading, so they are replayed before a bundle is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from twotower_tf.errors import ArtifactError

WARMUP = "assets.extra/tf_serving_warmup_requests"

Arrays = Mapping[str, npt.NDArray[Any]]


def write(path: Path, signatures: Sequence[str], arrays: Arrays, batch_sizes: Sequence[int]) -> None:
    """Writes requests from real users, each signature at each batch size.

    `arrays`, by input name, are [users, ...] of at least one user; users are repeated where a batch is larger.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    users = len(next(iter(arrays.values())))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            for size in batch_sizes:
                rows = np.arange(size) % users
                writer.write(_log(signature, {name: array[rows] for name, array in arrays.items()}).SerializeToString())


def _log(signature: str, arrays: Arrays) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "default"  # a server reads the signature's name only
    request.model_spec.signature_name = signature
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array, tf.string if array.dtype == object else array.dtype))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def read(path: Path) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
    """Yields the requests of a file: signature and inputs.

    Raises:
        ArtifactError: if the file is not a file of warm-up requests.
    """
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            yield (
                request.model_spec.signature_name,
                {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
            )
    except (tf.errors.OpError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged: no warm-up requests: {str(error).splitlines()[0]}") from None
