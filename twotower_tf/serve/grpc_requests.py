"""Requests of a gRPC client: rows of feature values to tensors, tensors to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from twotower_tf.bundle.signature_names import ITEM_IDS, MODEL_VERSION, RECOMMEND, SCORES
from twotower_tf.config.features import TIMES, Input, Kind
from twotower_tf.features.inputs import make_object_array, pad, rows_to_arrays
from twotower_tf.serve.retrieval_service import EXCLUDE, FILTER, K
from twotower_tf.serve.signature_tensors import write_tensor

_KINDS: dict[tuple[int, int], Kind] = {
    (types_pb2.DT_STRING, 1): "text",
    (types_pb2.DT_STRING, 2): "texts",
    (types_pb2.DT_FLOAT, 1): "number",
    (types_pb2.DT_INT64, 1): "time",
    (types_pb2.DT_INT64, 2): "times",
}
_LONGEST = 1 << 20  # values of a list; the graph cuts it to the feature's length


def fetch_inputs(channel: Any, model_name: str, call: Mapping[str, Any]) -> tuple[Input, ...]:
    """Returns the inputs of signature `recommend`.

    Raises:
        grpc.RpcError: where the service does not answer.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model_name
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, **call)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def[RECOMMEND].inputs
    kinds = {name: _KINDS[info.dtype, len(info.tensor_shape.dim)] for name, info in found.items()}
    timed = {name.removesuffix(TIMES): name for name, kind in kinds.items() if kind == "times"}
    return tuple(
        Input(
            name,
            kind,
            max_length=_LONGEST,
            keep_last=name in timed or kind == "times",
            timed=name in timed,
            times_of=name.removesuffix(TIMES) if kind == "times" else "",
        )
        for name, kind in kinds.items()
    )


def recommend(
    channel: Any,
    model_name: str,
    inputs: Sequence[Input],
    rows: Sequence[Mapping[str, Any]],
    k: int,
    exclude: Sequence[Sequence[str]] | None,
    filter: str,
    call: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Sends one request.

    Raises:
        DataError: for an unknown feature, or a value of the wrong type.
        grpc.RpcError: where the service refuses, or does not answer.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model_name, RECOMMEND
    arrays = rows_to_arrays(inputs, rows) | {K: np.array(k, np.int64)}
    if filter:
        arrays[FILTER] = make_object_array([filter.encode()])
    if exclude is not None:
        listed = [[item.encode() for item in items] for items in exclude]
        arrays[EXCLUDE] = pad(listed, Input(EXCLUDE, "texts", max_length=_LONGEST))
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(write_tensor(array))
    outputs = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, **call).outputs
    tables = (tf.make_ndarray(outputs[name]) for name in (ITEM_IDS, SCORES, MODEL_VERSION))
    return [
        {
            "item_ids": [item.decode() for item in ids if item],
            "scores": [float(score) for item, score in zip(ids, scores, strict=True) if item],
            "model_version": int(version),
        }
        for ids, scores, version in zip(*tables, strict=True)
    ]
