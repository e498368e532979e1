"""`--user_tower`: vectors from another server, whose version picks the index."""

import contextlib
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serve.running import ROW, free_port, publish, running, unpack

PATH = "/v1/models/tiny:recommend"
BODY = {"instances": [ROW], "k": 3}


def test_the_towers_version_picks_the_index(tmp_path):
    """The tower's server is this package's own: it speaks TensorFlow Serving's Predict."""
    root = unpack("exact", tmp_path)
    behind = tmp_path / "behind"
    shutil.copytree(root, behind)
    with running(root, rest_port=0, model_name="tower") as tower:
        options = {"user_tower": tower.grpc, "user_tower_model": "tower", "num_versions": 2}
        with running(behind, grpc_port=0, timeout_seconds=10.0, **options) as service:
            _, expected = service.post(PATH, BODY)
            assert expected["model_version"] == 7
            publish(root, 8)
            while tower.service.manager.versions != [8]:
                time.sleep(0.02)
            # The tower answers as 8 before this service has it: the request waits for the index of 8.
            threading.Timer(0.5, lambda: publish(behind, 8)).start()
            status, answer = service.post(PATH, BODY)
            assert (status, answer["model_version"]) == (200, 8)
            assert answer["predictions"] == expected["predictions"]
            assert service.service.manager.versions == [7, 8]
            status, answer = service.post("/v1/models/tiny:predict", {"instances": [ROW]})
            assert status == 400 and "served by the user tower's server" in answer["error"]


class StandIn(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The part of TensorFlow Serving that is used, in plain TensorFlow: takes turns among versions."""

    def __init__(self, root, versions):
        self.models = {version: tf.saved_model.load(str(root / str(version))) for version in versions}
        self.turns = itertools.cycle(versions)
        self.change = lambda response: None

    def Predict(self, request, context):
        version = next(self.turns)
        assert request.model_spec.name == "shop" and 0 < context.time_remaining() < 35  # gRPC rounds it up
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = "shop", version
        for name, value in self.models[version].signatures["serving_default"](**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        self.change(response)
        return response


@contextlib.contextmanager
def standing_in(servicer, certificate=None):
    """Yields the address of a server."""
    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{free_port()}"
    if certificate is None:
        server.add_insecure_port(address)
    else:
        cert, key = (path.read_bytes() for path in certificate)
        server.add_secure_port(address, grpc.ssl_server_credentials([(key, cert)]))
    server.start()
    try:
        yield address
    finally:
        server.stop(0)


@pytest.fixture(scope="module")
def stand_in(two_versions):
    return StandIn(two_versions[0], [7, 8])


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_answers_are_of_one_version_while_the_tower_alternates(two_versions, stand_in, request, encrypted):
    root, expected = two_versions
    pair = request.getfixturevalue("certificate") if encrypted else None
    with standing_in(stand_in, pair) as address:
        options = {"user_tower": address, "user_tower_model": "shop", "num_versions": 2}
        if encrypted:
            options["user_tower_ca"] = str(pair[0])
        with running(root, grpc_port=0, **options) as service:
            body = {"instances": [ROW], "k": 20}
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: service.post(PATH, body), range(80)))
    versions = [answer["model_version"] for _, answer in answers]
    assert {status for status, _ in answers} == {200} and versions.count(7) == versions.count(8) == 40
    for _, answer in answers:
        assert answer["predictions"][0]["item_ids"] == expected[answer["model_version"]]


def test_a_tower_that_fails_or_answers_nonsense(two_versions, stand_in, certificate):
    root, _ = two_versions
    body = {"instances": [ROW], "k": 3}

    def wrong_version(response):
        response.model_spec.version.value = 9

    def no_vector(response):
        del response.outputs["user_vector"]

    def two_users(response):
        response.outputs["user_vector"].CopyFrom(tf.make_tensor_proto([[1.0] * 8] * 2))

    with standing_in(stand_in) as address:
        options = {"user_tower_model": "shop", "num_versions": 2, "timeout_seconds": 5.0, "grpc_port": 0}
        with running(root, user_tower=address, **options) as service:
            for change, reason in (
                (wrong_version, "answered as versions "), (no_vector, "did not answer with user_vector"),
                (two_users, "answered 1 users with vectors of shape (2, 8)"),
            ):  # fmt: skip
                stand_in.change = change
                status, answer = service.post(PATH, body)
                assert status == 500 and answer["error"].startswith(f"user tower {address}: {reason}")
            stand_in.change = lambda response: None
            assert service.post(PATH, body)[0] == 200
        with running(root, user_tower=address, user_tower_ca=str(certificate[0]), **options) as service:
            status, answer = service.post(PATH, body)  # a server without TLS
            assert status == 503 and address in answer["error"]


def test_a_tower_behind_the_loaded_versions_is_an_error_at_once(two_versions, stand_in):
    root, _ = two_versions
    with standing_in(StandIn(root, [7])) as address:
        with running(root, user_tower=address, user_tower_model="shop", grpc_port=0) as service:
            began = time.monotonic()
            status, answer = service.post(PATH, BODY)
    assert status == 503 and time.monotonic() - began < 15
    assert answer["error"] == (
        "The user tower answered as version 7, whose index is not available (available: 8); serve that version with "
        "--version or --num_versions"
    )
