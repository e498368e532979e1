"""REST: the answers of plain TensorFlow, and TensorFlow Serving's errors, word by word."""

import gzip
import json
import zlib

import numpy as np
import pytest

from tests.serve.running import ROW, USER

MODEL = "/v1/models/tiny"
NAMES = "age,country,device_type,history,interests,timestamp,user_id"


@pytest.fixture(scope="module")
def expected(saved_model):
    import tensorflow as tf

    features = {name: tf.constant(values) for name, values in USER.items()}
    features["timestamp"] = tf.constant(USER["timestamp"], tf.int64)
    return {
        name: {key: value.numpy() for key, value in saved_model.signatures[name](**features).items()}
        for name in ("serving_default", "recommend")
    }


@pytest.mark.parametrize("path", [MODEL, f"{MODEL}/versions/7", f"{MODEL}/versions/0007", "/V1/Models/tiny"])
def test_row_format(tiny, expected, path):
    status, answer = tiny.post(f"{path}:predict", {"instances": [ROW, ROW]})
    assert status == 200 and list(answer) == ["predictions"]
    for each in answer["predictions"]:
        assert each["model_version"] == 7
        np.testing.assert_allclose(each["user_vector"], expected["serving_default"]["user_vector"][0], atol=1e-6)


def test_columnar_format(tiny, expected):
    status, answer = tiny.post(f"{MODEL}:predict", {"inputs": {**USER, "ignored": 1}})
    assert status == 200 and list(answer) == ["outputs"]
    assert answer["outputs"]["model_version"] == [7]
    np.testing.assert_allclose(answer["outputs"]["user_vector"], expected["serving_default"]["user_vector"], atol=1e-6)


def test_signature_recommend_answers_as_the_graph(tiny, expected):
    _, answer = tiny.post(f"{MODEL}:predict", {"signature_name": "recommend", "instances": [ROW]})
    (found,) = answer["predictions"]
    assert found["item_ids"] == [text.decode() for text in expected["recommend"]["item_ids"][0]]
    np.testing.assert_allclose(found["scores"], expected["recommend"]["scores"][0], atol=1e-6)


def test_serialized_examples_in_base64(tiny, expected):
    import base64

    import tensorflow as tf

    features = {
        name: {"int64_list": {"value": value}} if name == "timestamp"
        else {"float_list": {"value": value}} if name == "age"
        else {"bytes_list": {"value": [text.encode() for text in np.ravel(value)]}}
        for name, value in USER.items()
    }  # fmt: skip
    text = tf.train.Example(
        features={"feature": {name: tf.train.Feature(**kind) for name, kind in features.items()}}
    ).SerializeToString()
    body = {"signature_name": "from_examples", "instances": [{"b64": base64.b64encode(text).decode()}]}
    _, answer = tiny.post(f"{MODEL}:predict", body)
    found = answer["predictions"][0]["user_vector"]
    np.testing.assert_allclose(found, expected["serving_default"]["user_vector"][0], atol=1e-6)


def test_nan_trailing_bytes_and_gzip_are_read(tiny):
    body = json.dumps({"instances": [{**ROW, "age": float("nan")}]}).encode()
    assert b"NaN" in body
    plain = tiny.send("POST", f"{MODEL}:predict", body + b" and more}")
    packed = tiny.send("POST", f"{MODEL}:predict", gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert plain.status == packed.status == 200 and plain.data == packed.data
    assert plain.headers["content-type"] == "application/json"


def test_status_and_metadata(tiny):
    entry = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (MODEL, f"{MODEL}/versions/7"):
        assert tiny.get(path) == (200, {"model_version_status": [entry]})
    status, answer = tiny.get(f"{MODEL}/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "7"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    history = signature["inputs"]["history"]
    assert history["dtype"] == "DT_STRING"
    assert history["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "-1", "name": ""}], "unknown_rank": False
    }  # fmt: skip


def row(**changes):
    return {"instances": [{**ROW, **changes}]}


def without(name):
    return {"instances": [{key: value for key, value in ROW.items() if key != name}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (f"{MODEL}:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/other:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("/v1/models/other:predict", row(), 404, "Servable not found for request: Latest(other)"),
        (f"{MODEL}/versions/9:predict", row(), 404, "Servable not found for request: Specific(tiny, 9)"),
        (f"{MODEL}/labels/best:predict", row(), 400, "Unrecognized servable version label: best"),
        (
            f"{MODEL}:predict", {"signature_name": "x", **row()}, 400,
            'Serving signature name: "x" not found in signature def',
        ),
        (f"{MODEL}:predict", b"[1]", 400, "JSON Value: [1] Is not object"),
        (f"{MODEL}:predict", {"signature_name": 1}, 400,
         "JSON Value: {\"signature_name\": 1} not formatted correctly. 'signature_name' key must be a string value."),
        (f"{MODEL}:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        (f"{MODEL}:predict", {"instances": 3}, 400,
         "JSON Value: {\"instances\": 3} Expecting 'instances' to be an list/array"),
        (f"{MODEL}:predict", {"instances": []}, 400, "JSON Value: {\"instances\": []} No values in 'instances' array"),
        (f"{MODEL}:predict", {"instances": [1], "inputs": 1}, 400,
         'JSON Value: {"instances": [1], "inputs": 1} Not formatted correctly expecting only one of \'inputs\' or '
         "'instances' keys to exist "),
        (f"{MODEL}:predict", row(age="x"), 400,
         "Failed to process element: 0 key: age of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"x\" Type: "
         "String is not of expected type: float"),
        (f"{MODEL}:predict", row(timestamp=1.0), 400,
         "Failed to process element: 0 key: timestamp of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: 1.0 "
         "Type: Number is not of expected type: int64"),
        (f"{MODEL}:predict", row(user_id={"b64": "?"}), 400,
         "Failed to process element: 0 key: user_id of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 "
         "decode"),
        (f"{MODEL}:predict", row(colour="red"), 400,
         "Failed to process element: 0 key: colour of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not "
         "have named input: colour"),
        (f"{MODEL}:predict", {"instances": [ROW, {**ROW, "history": ["a", "b", "c"]}]}, 400,
         "Failed to process element: 1 key: history of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor "
         "size: 2 but got: 3"),
        (f"{MODEL}:predict", {"instances": [ROW, {**ROW, "history": [["a", "b"]]}]}, 400,
         "Failed to process element: 1 key: history of 'instances' list. Error: INVALID_ARGUMENT: Expecting shape [2] "
         "but got: [1,2]"),
        (f"{MODEL}:predict", {"instances": ["u1"]}, 400,
         "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
         "tensorinfo_map"),
        (f"{MODEL}:predict", {"instances": [{"b64": "aGk="}]}, 400, "instances is a plain list, but expecting list of"),
        (f"{MODEL}:predict", {"inputs": {"age": [1.0]}}, 400, "Missing named input: "),
        (f"{MODEL}:predict", without("country"), 400, f"keys must be equal to: {NAMES}"),
        (f"{MODEL}:predict", {"inputs": {**USER, "age": [1.0, 2.0]}}, 400, "assertion failed: ["),
        (f"{MODEL}:predict", b"[" * 100_000, 400, "JSON Parse error: "),
        (f"{MODEL}:predict", b'{"a": \xff}', 400, "JSON Parse error: Invalid encoding in string. at offset: 6"),
        (f"{MODEL}:predict", row(user_id="\ud800"), 400, "The surrogate pair in string is invalid."),
        (f"{MODEL}:classify", {"signature_name": "x", "examples": [{}]}, 400,
         "No signature was found with the name: x"),
        (f"{MODEL}:explain", {}, 400, f"Malformed request: POST {MODEL}:explain"),
        (f"{MODEL}/versions/x:predict", row(), 400, f"Malformed request: POST {MODEL}/versions/x:predict"),
    ],
)  # fmt: skip
def test_errors_of_predict(tiny, path, body, status, message):
    found, answer = tiny.post(path, body)
    assert found == status and list(answer) == ["error"]
    assert message in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/other", 404, "Could not find any versions of model other"),
        ("GET", f"{MODEL}/versions/9", 404, "Could not find version 9 of model tiny"),
        ("GET", "/v1/models/other/metadata", 404, "Servable not found for request: Latest(other)"),
        ("GET", f"{MODEL}:predict", 404, "Could not find any versions of model tiny:predict"),
        ("DELETE", MODEL, 400, f"Malformed request: DELETE {MODEL}"),
        ("GET", "/v1/x/", 400, "Malformed request: GET /v1/x/"),
        ("GET", "/v2/models", 404, "Not Found"),
    ],
)
def test_errors_of_other_paths(tiny, method, path, status, message):
    answer = tiny.send(method, path)
    assert (answer.status, json.loads(answer.data)) == (status, {"error": message})


def test_a_version_beyond_int64_has_no_body(tiny):
    answer = tiny.send("GET", f"{MODEL}/versions/{2**63}")
    assert (answer.status, answer.data) == (400, b"")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"x" * (16 * 2**20 + 1), {}, 413),
        (zlib.compress(b""), {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b"{}")[:-9], {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(bytes(17 * 2**20)), {"Content-Encoding": "gzip"}, 413),
        (b"{}", {"Content-Encoding": "br"}, 400),
    ],
    ids=["large", "zlib", "cut", "expands", "br"],
)
def test_bodies_are_bounded(tiny, body, headers, status):
    answer = tiny.send("POST", f"{MODEL}:predict", body, **headers)
    assert answer.status == status and json.loads(answer.data)["error"]


def test_health_metrics_and_description(tiny):
    assert tiny.get("/healthz") == (200, {"status": "ok"})
    assert tiny.get("/readyz") == (200, {"ready": True})
    for path in ("/healthz", "/readyz"):
        answer = tiny.send("HEAD", path)
        assert (answer.status, answer.data) == (200, b"")
    tiny.post(f"{MODEL}:predict", row())
    text = tiny.send("GET", "/metrics").data.decode()
    assert "twotower_newest_version 7.0" in text
    assert 'twotower_requests_total{code="200",method="predict",protocol="rest"}' in text
    assert "/v1/models/{model}:recommend" in tiny.get("/openapi.json")[1]["paths"]
