"""Tensors of a Predict request: checked against the signature, with the errors of TensorFlow Serving's gRPC service.

Shapes are not compared with the signature, as in TensorFlow Serving: the graph does that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from twotower_tf.serve.service_errors import ServiceError, invalid, join_names

Arrays = dict[str, npt.NDArray[Any]]

# Responses have typed fields, which every client reads; some cannot read `tensor_content`.
_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
}


def dtype_name(dtype: int) -> str:
    """Returns TensorFlow's name of a type: "float", "string", "int64"."""
    name: str = types_pb2.DataType.Name(dtype)
    return name.removeprefix("DT_").lower()


def find_signature(signatures: Mapping[str, Any], name: str) -> Any:
    """Returns the signature of a name.

    Raises:
        ServiceError: where there is none.
    """
    if name not in signatures:
        raise ServiceError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    return signatures[name]


def check_names(signature: Any, given: Collection[str]) -> None:
    """Checks that a request has the inputs of a signature and no others.

    Raises:
        ServiceError: naming what is missing and what is too many.
    """
    wanted = signature.inputs
    missing, extra = set(wanted) - set(given), set(given) - set(wanted)
    if len(given) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({{{join_names(list(given))}}}) != "
            f"len({{{join_names(list(wanted))}}}). Sent extra: {{{join_names(list(extra))}}}. Missing but required: "
            f"{{{join_names(list(missing))}}}."
        )
    if missing:
        first = min(missing)
        raise invalid(
            f"Signature input alias: {first}(feed name: {wanted[first].name}) not found in request and no default "
            f"value provided. Inputs expected to be in the request {{{join_names(list(wanted))}}}, or default input "
            "alias set: "
        )


def read_tensors(signature: Any, inputs: Mapping[str, Any], most_values: int) -> Arrays:
    """Reads the tensors of a request.

    Args:
        signature: whose inputs they are, after `check_names`.
        inputs: name to `TensorProto`, with typed fields or `tensor_content`.
        most_values: of one tensor: a shape alone can ask for any amount of memory.

    Raises:
        ServiceError: for a tensor that cannot be read, or of another type.
    """
    arrays = {name: read_tensor(name, tensor, most_values) for name, tensor in inputs.items()}
    for place, (name, tensor) in enumerate(inputs.items()):
        expected = signature.inputs[name].dtype
        if tensor.dtype != expected:
            raise invalid(
                f"Expects arg[{place}] to be {dtype_name(expected)} but {dtype_name(tensor.dtype)} is provided"
            )
    return arrays


def read_tensor(name: str, tensor: Any, most_values: int) -> npt.NDArray[Any]:
    """Reads one tensor.

    Raises:
        ServiceError: where it cannot be read.
    """
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    count = 1
    for size in sizes:
        count *= size
    if tensor.tensor_shape.unknown_rank or min(sizes, default=0) < 0 or count > most_values:
        raise invalid(f"tensor parsing error: {name}")
    try:
        array: npt.NDArray[Any] = tf.make_ndarray(tensor)
    except (ValueError, TypeError):
        raise invalid(f"tensor parsing error: {name}") from None
    if array.shape != tuple(sizes):
        raise invalid(f"tensor parsing error: {name}")
    return array


def choose_outputs(signature: Any, output_filter: Sequence[str]) -> list[str]:
    """Returns the outputs to answer with: those of the filter, or all.

    Raises:
        ServiceError: for an unknown or a repeated one.
    """
    known = list(signature.outputs)
    for place, name in enumerate(output_filter):
        if name not in known:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{{{join_names(known)}}}."
            )
        if name in output_filter[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return list(output_filter) or known


def write_tensor(array: npt.NDArray[Any]) -> Any:
    """Writes an array as a `TensorProto` with typed fields."""
    dtype = types_pb2.DT_STRING if array.dtype == object else tf.as_dtype(array.dtype).as_datatype_enum
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, _FIELDS[dtype]).extend(array.reshape(-1).tolist())
    return tensor


def compute_joined(run: Any, requests: list[Arrays]) -> list[Arrays]:
    """Computes several requests of one signature as one batch.

    Args:
        run: from inputs to outputs, by name; every one has the batch as dimension 0.
        requests: inputs by name; texts and times of one name may be lists of different lengths, which "" and 0 fill up.

    Returns:
        The outputs of each request.
    """
    if len(requests) == 1:
        return [run(requests[0])]
    ends = np.cumsum([len(next(iter(each.values()))) for each in requests])
    outputs = run({name: _join([each[name] for each in requests]) for name in requests[0]})
    if any(len(value) != ends[-1] for value in outputs.values()):
        raise RuntimeError("an output has another number of rows than the inputs")
    return [
        {name: value[start:end] for name, value in outputs.items()}
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def batch_key(signature: Any, arrays: Arrays) -> tuple[Any, ...] | None:
    """Returns what inputs have in common with those that they may be joined with; None to be computed alone.

    Inputs that the graph may reject are computed alone, so that no other request fails with them.
    """
    sizes = {len(array) if array.ndim else -1 for array in arrays.values()}
    ranks = all(array.ndim == len(signature.inputs[name].tensor_shape.dim) for name, array in arrays.items())
    if len(sizes) != 1 or -1 in sizes or not ranks:
        return None
    return tuple((name, array.shape[1:]) for name, array in sorted(arrays.items()) if not _may_be_wider(array))


def _join(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    if parts[0].ndim == 2 and _may_be_wider(parts[0]):
        width, filler = max(part.shape[1] for part in parts), b"" if parts[0].dtype == object else 0
        parts = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=filler) for part in parts]
    return np.concatenate(parts)


def _may_be_wider(array: npt.NDArray[Any]) -> bool:
    """Tests whether an input means the same with padding: texts, and lists of times."""
    return array.dtype == object or (array.ndim == 2 and array.dtype == np.int64)
