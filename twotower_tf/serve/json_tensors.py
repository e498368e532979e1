"""Tensors as JSON, read and written as TensorFlow Serving's REST service does.

Its JSON has more than the standard's: `NaN` and `Infinity` are numbers, and what follows the first value is ignored.
Numbers keep their kind: an integer is not read from `1.0`, and whole floats are written as `1.0`. Its error texts are
those of `util/json_tensor.cc`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from tensorflow.core.framework import types_pb2

from twotower_tf.features.inputs import make_object_array
from twotower_tf.serve.service_errors import ServiceError, invalid, join_names
from twotower_tf.serve.signature_tensors import Arrays, dtype_name

_DECODER = json.JSONDecoder()
_SHOWN = 256  # characters of a value in an error
_MOST_DIMENSIONS = 32
_BASE64 = "b64"
_BYTES_SUFFIX = "_bytes"  # of a string output that is written in base64
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}

Shape = tuple[int, ...]


def parse_object(body: bytes) -> dict[str, Any]:
    """Reads the JSON object that a request's body starts with.

    Raises:
        ServiceError: where there is none.
    """
    try:
        text = body.decode("utf-8-sig").lstrip(" \t\r\n")
        if not text:
            raise invalid("JSON Parse error: The document is empty")
        value, _ = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    except RecursionError:
        raise invalid("JSON Parse error: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {_show(value)} Is not object")
    return value


def read_signature_name(document: Mapping[str, Any], default: str) -> str:
    """Returns the name of the requested signature.

    Raises:
        ServiceError: where it is not a text.
    """
    name = document.get("signature_name", default)
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_show(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or default


def read_inputs(document: Mapping[str, Any], inputs: Mapping[str, int]) -> tuple[Arrays, bool]:
    """Reads the tensors of a Predict request, in row format (`instances`) or columnar (`inputs`).

    Args:
        document: the request.
        inputs: data type (`DT_...`) of each input.

    Returns:
        The inputs by name, and whether the format was by row, as the answer is.

    Raises:
        ServiceError: for anything that does not fit.
    """
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise invalid(
            f"JSON Value: {_show(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if not rows and not columns:
        raise invalid("Missing 'inputs' or 'instances' key")
    return (_read_rows(document, inputs), True) if rows else (_read_columns(document["inputs"], inputs), False)


def check_instances(document: Mapping[str, Any]) -> list[Any]:
    """Returns the list of instances.

    Raises:
        ServiceError: where it is not a list, or empty.
    """
    instances = document["instances"]
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_show(document)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {_show(document)} No values in 'instances' array")
    return instances


def write_rows(outputs: Arrays) -> bytes:
    """Writes outputs in row format: an object per row, or its value where there is one output.

    Raises:
        ServiceError: for outputs without rows, or with different numbers of them.
    """
    size = -1
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if size >= 0 and len(array) != size:
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}")
        size = len(array)
    columns = {name: _nest(_write_values(name, array), array.shape, 1) for name, array in outputs.items()}
    return f'{{"predictions": [{", ".join(_join_columns(columns, size))}]}}'.encode()


def write_columns(outputs: Arrays) -> bytes:
    """Writes outputs in columnar format: an object of arrays, or the array where there is one output."""
    columns = {name: _nest(_write_values(name, array), array.shape, 0) for name, array in outputs.items()}
    return f'{{"outputs": {next(_join_columns(columns, 1))}}}'.encode()


def write_floats(values: npt.NDArray[np.floating[Any]]) -> list[str]:
    """Writes floats with six digits where these are enough to read the same number, else with as many as needed."""
    digits = 9 if values.dtype == np.float32 else 17
    numbers = values.tolist()
    texts = [f"{number:.6g}" for number in numbers]
    exact = np.array(texts).astype(values.dtype) == values if texts else ()
    return [
        _finish_float(text if same else f"{number:.{digits}g}")
        for text, same, number in zip(texts, exact, numbers, strict=True)
    ]


def write_scores(scores: Sequence[float]) -> list[str]:
    """Writes scores, which are float32 numbers, as `write_floats` does."""
    return write_floats(np.array(scores, np.float32))


def _finish_float(text: str) -> str:
    if text in ("nan", "inf", "-inf"):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
    return text if "." in text or "e" in text else f"{text}.0"


def _read_rows(document: Mapping[str, Any], inputs: Mapping[str, int]) -> Arrays:
    instances = check_instances(document)
    objects = _is_object(instances[0])
    if not objects and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns: dict[str, list[Any]] = {name: [] for name in inputs}
    shapes: dict[str, Shape] = {}
    for place, instance in enumerate(instances):
        if objects != _is_object(instance):
            kinds = ("object", "list") if objects else ("value/list", "object")
            raise invalid(f"Expecting {kinds[0]} but got {kinds[1]} at item {place} of input list")
        for name, value in (instance if objects else {next(iter(inputs)): instance}).items():
            key = f" key: {name}" if objects else ""
            try:
                columns[_known(name, inputs)] += _read_element(value, inputs[name], shapes, name)
            except ServiceError as error:
                raise invalid(
                    f"Failed to process element: {place}{key} of 'instances' list. Error: {error.code}: {error.message}"
                ) from None
        if objects and instance.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object: {_show(instance)} keys must be "
                f"equal to: {join_names(list(inputs))}"
            )
    return {
        name: _make_array(values, inputs[name]).reshape((len(instances), *shapes[name]))
        for name, values in columns.items()
    }


def _known(name: str, inputs: Mapping[str, int]) -> str:
    if name not in inputs:
        raise invalid(f"JSON object: does not have named input: {name}")
    return name


def _read_element(value: Any, dtype: int, shapes: dict[str, Shape], name: str) -> list[Any]:
    """Returns the values of one row of an input, whose shape is that of the rows before."""
    shape = _measure(value)
    values = _flatten(value, shape, dtype)
    first = shapes.setdefault(name, shape)
    if np.prod(first, dtype=np.int64) != len(values):
        raise invalid(f"Expecting tensor size: {np.prod(first, dtype=np.int64)} but got: {len(values)}")
    if first != shape:
        raise invalid(f"Expecting shape {_show_shape(first)} but got: {_show_shape(shape)}")
    return values


def _read_columns(value: Any, inputs: Mapping[str, int]) -> Arrays:
    if not _is_object(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = dict.fromkeys(inputs, value)
    arrays = {}
    for name, dtype in inputs.items():
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = read_array(value[name], dtype)
    return arrays


def read_array(value: Any, dtype: int) -> npt.NDArray[Any]:
    """Reads a value, or nested lists of values, as an array of a data type.

    Raises:
        ServiceError: for another type, or lists of different lengths.
    """
    shape = _measure(value)
    return _make_array(_flatten(value, shape, dtype), dtype).reshape(shape)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_BASE64), str)


def _measure(value: Any) -> Shape:
    """Returns the shape of nested lists, by the first of each.

    Raises:
        ServiceError: for more dimensions than a tensor may have.
    """
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) > _MOST_DIMENSIONS:
        raise invalid(f"JSON Value: lists are nested too deeply (expected at most {_MOST_DIMENSIONS} levels)")
    return tuple(shape)


def _flatten(value: Any, shape: Shape, dtype: int) -> list[Any]:
    """Returns the values of nested lists in order, as the data type has them."""
    level = [value]
    for depth, size in enumerate(shape):
        for each in level:
            if not isinstance(each, list):
                raise invalid(
                    f"JSON Value: {_show(each)} found at incorrect level: {depth + 1} in the JSON DOM. Expected at "
                    f"level: {len(shape)}"
                )
            if len(each) != size:
                raise invalid(
                    f"Encountered list at unexpected size: {len(each)} at level: {depth} expected size: {size}"
                )
        level = [inner for each in level for inner in each]
    if any(isinstance(each, list) for each in level):
        raise invalid(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    read = _READERS.get(dtype)
    if read is None:
        raise ServiceError("UNIMPLEMENTED", f"Conversion of JSON Value to type: {dtype_name(dtype)}")
    return [read(each, dtype) for each in level]


def _make_array(values: list[Any], dtype: int) -> npt.NDArray[Any]:
    if dtype == types_pb2.DT_STRING:
        return make_object_array(values)
    with np.errstate(over="ignore"):  # a number beyond float32 is infinity
        return np.array(values, _NUMPY[dtype])


def _read_float(value: Any, dtype: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _type_error(value, dtype)
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _read_integer(value: Any, dtype: int) -> int:
    limits = np.iinfo(np.int32 if dtype == types_pb2.DT_INT32 else np.int64)
    if isinstance(value, bool) or not isinstance(value, int) or not limits.min <= value <= limits.max:
        raise _type_error(value, dtype)
    return value


def _read_bool(value: Any, dtype: int) -> bool:
    if not isinstance(value, bool):
        raise _type_error(value, dtype)
    return value


def _read_text(value: Any, dtype: int) -> bytes:
    if isinstance(value, dict):
        return _read_base64(value)
    if not isinstance(value, str):
        raise _type_error(value, dtype)
    try:
        return value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from None


def _read_base64(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_show(value)} not formatted correctly for base64 data")
    text = value[_BASE64]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


_READERS: dict[int, Callable[[Any, int], Any]] = {
    types_pb2.DT_FLOAT: _read_float,
    types_pb2.DT_DOUBLE: _read_float,
    types_pb2.DT_INT32: _read_integer,
    types_pb2.DT_INT64: _read_integer,
    types_pb2.DT_BOOL: _read_bool,
    types_pb2.DT_STRING: _read_text,
}
_NUMPY: dict[int, type[np.generic]] = {
    types_pb2.DT_FLOAT: np.float32,
    types_pb2.DT_DOUBLE: np.float64,
    types_pb2.DT_INT32: np.int32,
    types_pb2.DT_INT64: np.int64,
    types_pb2.DT_BOOL: np.bool_,
}


def _type_error(value: Any, dtype: int) -> ServiceError:
    kind = str(value) if isinstance(value, bool) else _JSON_TYPES[type(value)]
    return invalid(f"JSON Value: {_show(value)} Type: {kind} is not of expected type: {dtype_name(dtype)}")


def _show(value: Any) -> str:
    """Returns the start of a value's JSON."""
    text = ""
    try:
        for part in json.JSONEncoder(ensure_ascii=False).iterencode(value):
            text += part
            if len(text) > _SHOWN:
                break
    except RecursionError:
        return f"{text[:_SHOWN]}..."
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _show_shape(shape: Shape) -> str:
    return f"[{','.join(map(str, shape))}]"


def _write_values(name: str, array: npt.NDArray[Any]) -> list[str]:
    """Writes every value of an array, in order."""
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        return write_floats(flat)
    if array.dtype == object:
        if name.endswith(_BYTES_SUFFIX):
            return [f'{{"{_BASE64}": "{base64.b64encode(value).decode()}"}}' for value in flat]
        return [orjson.dumps(value.decode("utf-8", "replace")).decode() for value in flat]
    return [str(value).lower() for value in flat.tolist()]


def _nest(texts: Sequence[str], shape: Shape, depth: int) -> Sequence[str]:
    """Puts values into lists: of all dimensions from `depth` on."""
    for axis in range(len(shape) - 1, depth - 1, -1):
        groups, size = int(np.prod(shape[:axis], dtype=np.int64)), shape[axis]
        texts = [f"[{', '.join(texts[group * size : (group + 1) * size])}]" for group in range(groups)]
    return texts


def _join_columns(columns: Mapping[str, Sequence[str]], rows: int) -> Iterator[str]:
    """Yields each row: an object of the columns, or the value of the only one."""
    if len(columns) == 1:
        yield from next(iter(columns.values()))
        return
    keys = [(orjson.dumps(name).decode(), texts) for name, texts in sorted(columns.items())]
    for row in range(rows):
        yield f"{{{', '.join(f'{key}: {texts[row]}' for key, texts in keys)}}}"
