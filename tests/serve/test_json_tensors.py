"""JSON of tensors: numbers and nesting, written out by hand as TensorFlow Serving writes and reads them."""

import json

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2

from twotower_tf.serve import json_tensors
from twotower_tf.serve.service_errors import ServiceError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.2"), (1.0, "1.0"), (0.0, "0.0"), (-0.0, "-0.0"), (9e6, "9e+06"), (3e-5, "3e-05"),
        (1 / 3, "0.333333343"), (16777216.0, "16777216.0"), (123456.0, "123456.0"), (3.4028235e38, "3.40282347e+38"),
        (float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"),
    ],
)  # fmt: skip
def test_floats_are_written_shortly_and_read_back(value, text):
    value = np.float32(value)
    assert json_tensors.write_floats(np.array([value])) == [text]
    np.testing.assert_equal(np.float32(json.loads(text)), value)


def test_doubles_have_seventeen_digits_where_needed():
    assert json_tensors.write_floats(np.array([0.1, 1 / 3])) == ["0.1", "0.33333333333333331"]


def test_rows_and_columns():
    outputs = {
        "b": np.array([[1.5, 2.0], [0.1, float("nan")]], np.float32),
        "a": np.array([7, 8]),
        "s": np.array([b'\xc3\xa9"', b""], object),
        "s_bytes": np.array([b"\x00", b"hi"], object),
    }
    assert json_tensors.write_rows(outputs).decode() == (
        '{"predictions": [{"a": 7, "b": [1.5, 2.0], "s": "é\\"", "s_bytes": {"b64": "AA=="}}, '
        '{"a": 8, "b": [0.1, NaN], "s": "", "s_bytes": {"b64": "aGk="}}]}'
    )
    one = {"b": np.zeros((2, 1, 2), np.float32)}
    assert json_tensors.write_rows(one) == b'{"predictions": [[[0.0, 0.0]], [[0.0, 0.0]]]}'
    assert json_tensors.write_columns(one) == b'{"outputs": [[[0.0, 0.0]], [[0.0, 0.0]]]}'
    assert json_tensors.write_columns({"x": np.array(True), "y": np.zeros((2, 0), np.float32)}) == (
        b'{"outputs": {"x": true, "y": [[], []]}}'
    )


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"x": np.array(1.0)}, "Tensor name: x has no shape information "),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "Tensor name: y has inconsistent batch size: 3 expecting: 2"),
    ],
)
def test_outputs_without_rows_cannot_be_written_by_row(outputs, message):
    with pytest.raises(ServiceError) as caught:
        json_tensors.write_rows(outputs)
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", message)


FLOAT, INT, LONG, BOOL, TEXT = (
    types_pb2.DT_FLOAT, types_pb2.DT_INT32, types_pb2.DT_INT64, types_pb2.DT_BOOL, types_pb2.DT_STRING
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("[1, 2.5, 1e308, -Infinity]", FLOAT, np.array([1, 2.5, np.inf, -np.inf], np.float32)),
        (f"[1{'0' * 400}]", FLOAT, np.array([np.inf], np.float32)),
        ("[[1], [2]]", LONG, np.array([[1], [2]])),
        ("3", INT, np.array(3, np.int32)),
        ("[true, false]", BOOL, np.array([True, False])),
        ('["é", {"b64": "aGk="}, {"b64": "aGk"}]', TEXT, np.array(["é".encode(), b"hi", b"hi"], object)),
        ("[]", FLOAT, np.zeros(0, np.float32)),
        ("[[], []]", TEXT, np.zeros((2, 0), object)),
    ],
)
def test_values_are_read(text, dtype, expected):
    found = json_tensors.read_array(json.loads(text), dtype)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("text", "dtype", "message"),
    [
        ("[1.0]", LONG, "JSON Value: 1.0 Type: Number is not of expected type: int64"),
        ("[9223372036854775808]", LONG, "JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ("[2147483648]", INT, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
        ("[true]", FLOAT, "JSON Value: true Type: True is not of expected type: float"),
        ("[1]", BOOL, "JSON Value: 1 Type: Number is not of expected type: bool"),
        ("[null]", TEXT, "JSON Value: null Type: Null is not of expected type: string"),
        ("[[1], 2]", LONG, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ("[1, [2]]", LONG, "Encountered list at unexpected level: 1 expected < 1"),
        ("[[1], [2, 3]]", LONG, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
        ('[{"b64": "a", "c": 1}]', TEXT, 'JSON Value: {"b64": "a", "c": 1} not formatted correctly for base64 data'),
        ("[" * 40 + "]" * 40, LONG, "JSON Value: lists are nested too deeply (expected at most 32 levels)"),
    ],
)
def test_values_that_do_not_fit(text, dtype, message):
    with pytest.raises(ServiceError) as caught:
        json_tensors.read_array(json.loads(text), dtype)
    assert caught.value.message == message


def test_a_long_value_is_cut_in_an_error():
    with pytest.raises(ServiceError) as caught:
        json_tensors.read_array(["x" * 1000], FLOAT)
    assert caught.value.message == f'JSON Value: "{"x" * 255}... Type: String is not of expected type: float'
