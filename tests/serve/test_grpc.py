"""gRPC with the stubs of tensorflow-serving-api: plain TensorFlow's answers, TensorFlow Serving's codes and texts."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serve.running import USER

DTYPES = {"age": tf.float32, "timestamp": tf.int64}
NAMES = "age,country,device_type,history,interests,timestamp,user_id"


@pytest.fixture(scope="module")
def channel(tiny):
    with grpc.insecure_channel(tiny.grpc) as found:
        yield found


@pytest.fixture(scope="module")
def predict(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict


def request(signature="", name="tiny", features=USER, version=None, **changes):
    """A request as TensorFlow's own function writes it: numbers in `tensor_content`."""
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = name, signature
    if version is not None:
        made.model_spec.version.value = version
    for key, values in {**features, **changes}.items():
        if values is not None:
            made.inputs[key].CopyFrom(tf.make_tensor_proto(values, DTYPES.get(key)))
    return made


@pytest.mark.parametrize("signature", ["", "serving_default", "recommend"])
def test_answers_of_plain_tensorflow_in_typed_fields(predict, saved_model, signature):
    features = {name: tf.constant(values, DTYPES.get(name)) for name, values in USER.items()}
    expected = saved_model.signatures[signature or "serving_default"](**features)
    answer = predict(request(signature), timeout=30)
    assert answer.model_spec.name == "tiny" and answer.model_spec.version.value == 7
    assert answer.model_spec.signature_name == (signature or "serving_default")
    assert set(answer.outputs) == set(expected)
    for name, tensor in answer.outputs.items():
        assert not tensor.tensor_content
        found = tf.make_ndarray(tensor)
        assert found.dtype == expected[name].numpy().dtype
        if name in ("item_ids", "model_version"):
            assert found.tolist() == expected[name].numpy().tolist()
        else:
            np.testing.assert_allclose(found, expected[name].numpy(), atol=1e-6)


def test_typed_fields_are_read_and_outputs_chosen(predict):
    made = request()
    made.inputs["age"].CopyFrom(
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[30.0], tensor_shape=made.inputs["age"].tensor_shape)
    )
    made.output_filter.append("user_vector")
    answer = predict(made, timeout=30)
    assert list(answer.outputs) == ["user_vector"]
    assert answer.outputs["user_vector"].float_val == predict(request(), timeout=30).outputs["user_vector"].float_val


def test_recommend_takes_k_exclusions_and_a_filter(predict, served_root):
    import pyarrow.parquet as pq

    table = pq.read_table(served_root / "7" / "items.parquet").to_pydict()
    price = dict(zip(table["item_id"], table["price"], strict=True))
    everything = predict(request("recommend", k=np.int64(150)), timeout=30).outputs["item_ids"].string_val
    first = everything[0].decode()
    made = request("recommend", k=np.int64(150), exclude=[[first, ""]], filter="price < 20")
    found = [item.decode() for item in predict(made, timeout=30).outputs["item_ids"].string_val]
    ranked = [item.decode() for item in everything]
    assert len(ranked) == 150
    assert found == [item for item in ranked[1:] if price[item] is not None and price[item] < 20]


def test_lists_of_different_lengths_are_filled_up(predict):
    features = {name: values * 2 for name, values in USER.items()}
    ranked = predict(request("recommend", k=np.int64(150)), timeout=30).outputs["item_ids"].string_val
    everything = [item.decode() for item in ranked]
    gone = everything[:148]
    made = request("recommend", features=features, k=np.int64(150), exclude=[gone, [""] * 148])
    outputs = predict(made, timeout=30).outputs
    ids, scores = tf.make_ndarray(outputs["item_ids"]), tf.make_ndarray(outputs["scores"])
    assert ids.shape == scores.shape == (2, 150)
    assert [item.decode() for item in ids[0][:2]] == everything[148:] and set(ids[0][2:]) == {b""}
    assert np.isnan(scores[0][2:]).all() and not np.isnan(scores[1]).any()


def test_status_metadata_and_health(channel):
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    wanted = get_model_status_pb2.GetModelStatusRequest()
    wanted.model_spec.name = "tiny"
    (status,) = models.GetModelStatus(wanted, timeout=30).model_version_status
    assert (status.version, status.state, status.status.error_code) == (7, 30, 0)  # 30 is AVAILABLE
    wanted = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    wanted.model_spec.name = "tiny"
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(wanted, timeout=30)
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (7, "")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["history"].dtype == types_pb2.DT_STRING
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "ModelService", "PredictionService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=30).status == 1


def bad_tensor(**fields):
    made = request()
    made.inputs["age"].CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **fields))
    return made


def shape(*sizes):
    return {"dim": [{"size": size} for size in sizes]}


def filtered(*names):
    made = request()
    made.output_filter.extend(names)
    return made


@pytest.mark.parametrize(
    ("made", "code", "text"),
    [
        (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request(name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (request(name="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
        (request(version=9), "NOT_FOUND", "Servable not found for request: Specific(tiny, 9)"),
        (request("x"), "FAILED_PRECONDITION", 'Serving signature key "x" not found.'),
        (
            request(features={"user_id": ["u1"]}), "INVALID_ARGUMENT",
            f"input size does not match signature: 1!=7 len({{user_id}}) != len({{{NAMES}}}). Sent extra: {{}}. "
            "Missing but required: {age,country,device_type,history,interests,timestamp}.",
        ),
        (
            request(country=None, colour=["red"]), "INVALID_ARGUMENT",
            "Signature input alias: country(feed name: serving_default_country:0) not found in request and no default "
            f"value provided. Inputs expected to be in the request {{{NAMES}}}, or default input alias set: ",
        ),
        (request(country=[1.0]), "INVALID_ARGUMENT", "Expects arg[1] to be string but float is provided"),
        (bad_tensor(tensor_content=b"123", tensor_shape=shape(1)), "INVALID_ARGUMENT", "tensor parsing error: age"),
        (bad_tensor(float_val=[1.0], tensor_shape=shape(10**15)), "INVALID_ARGUMENT", "tensor parsing error: age"),
        (bad_tensor(float_val=[1.0], tensor_shape=shape(-1)), "INVALID_ARGUMENT", "tensor parsing error: age"),
        (
            filtered("z"), "INVALID_ARGUMENT",
            "output tensor alias not found in signature: z Outputs expected to be in the set "
            "{model_version,user_vector}.",
        ),
        (
            filtered("user_vector", "user_vector"), "INVALID_ARGUMENT", "duplicate output tensor alias: user_vector",
        ),
        (request("recommend", k=[1, 2]), "INVALID_ARGUMENT", "k: invalid tensor (expected one int64)"),
        (request("recommend", k=1001), "INVALID_ARGUMENT",
         "k: invalid value 1001 (expected a whole number from 1 to 1000); max_k sets the largest"),
    ],
)  # fmt: skip
def test_errors(predict, made, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        predict(made, timeout=30)
    assert (caught.value.code().name, caught.value.details()) == (code, text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"age": [1.0, 2.0]}, "assertion failed: ["),
        ({"history": ["flat"]}, "shape"),
        ({"age": [[1.0]]}, "shape"),
    ],
)
def test_shapes_are_rejected_by_the_graph(predict, changes, text):
    with pytest.raises(grpc.RpcError) as caught:
        predict(request(**changes), timeout=30)
    assert caught.value.code().name == "INVALID_ARGUMENT" and text in caught.value.details()


def test_errors_of_the_other_methods(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest()
    metadata.model_spec.name = "tiny"
    cases = [(stub.GetModelMetadata, metadata, "INVALID_ARGUMENT",
              "GetModelMetadataRequest must specify at least one metadata_field")]  # fmt: skip
    other = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["x"])
    other.model_spec.name = "tiny"
    cases.append((stub.GetModelMetadata, other, "INVALID_ARGUMENT", "Metadata field x is not supported"))
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name, classify.model_spec.signature_name = "tiny", "x"
    cases.append((stub.Classify, classify, "INVALID_ARGUMENT", "No signature was found with the name: x"))
    unknown = {None: "Could not find any versions of model m", 9: "Could not find version 9 of model tiny"}
    for version, text in unknown.items():
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "m" if version is None else "tiny"
        if version is not None:
            status.model_spec.version.value = version
        cases.append((models.GetModelStatus, status, "NOT_FOUND", text))
    for method, made, code, text in cases:
        with pytest.raises(grpc.RpcError) as caught:
            method(made, timeout=30)
        assert (caught.value.code().name, caught.value.details()) == (code, text)


def test_a_long_error_is_cut(predict):
    with pytest.raises(grpc.RpcError) as caught:
        predict(request("x" * 5000), timeout=30)
    assert caught.value.details() == f'Serving signature key "{"x" * 5000}'[:1024] + "...TRUNCATED"


def test_ovmsclient_predicts(tiny):
    """A client of another project; in a process of its own, because it brings its own protocol buffers."""
    import json
    import subprocess
    import sys

    pytest.importorskip("ovmsclient")
    code = (
        "import json, sys, numpy as np, ovmsclient\n"
        "address, user = sys.argv[1], json.loads(sys.argv[2])\n"
        "client = ovmsclient.make_grpc_client(address)\n"
        "inputs = {name: np.array(values, {'age': np.float32, 'timestamp': np.int64}.get(name, np.bytes_))"
        " for name, values in user.items()}\n"
        "found = client.predict(inputs, 'tiny')\n"
        "print(json.dumps({name: np.asarray(value).tolist() for name, value in found.items()}))\n"
        "print(json.dumps({str(key): value for key, value in client.get_model_status('tiny').items()}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny.grpc, json.dumps(USER)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = done.stdout.splitlines()
    _, expected = tiny.post("/v1/models/tiny:predict", {"inputs": USER})
    np.testing.assert_allclose(json.loads(first)["user_vector"], expected["outputs"]["user_vector"], atol=1e-6)
    assert json.loads(second)["7"]["state"] == "AVAILABLE"
