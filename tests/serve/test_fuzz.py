"""Malformed requests of many kinds: every one is answered, none with an internal error, and nothing grows."""

import copy
import json
import random
import socket

import grpc
import pytest

from tests.serve.running import ROW, USER

PATHS = [f"/v1/models/tiny{place}:{method}" for place in ("", "/versions/7", "/versions/8", "/labels/x")
         for method in ("predict", "recommend", "similar", "classify", "regress")]  # fmt: skip
VALUES = [None, True, -1, 0, 10**30, 1.5, float("nan"), float("-inf"), "", "u1", "\ud800", "\x00", [], {}, [[]], [None],
          {"b64": "aGk="}, {"b64": 1}, [["a"], "b"], "i00003", "price < 20", "price <", [{}], [ROW], USER]  # fmt: skip
ALLOWED = {200, 400, 404, 413, 429, 501}


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def mutate(generator: random.Random) -> bytes:
    """A request that was once valid, with some of its values, keys or bytes changed."""
    document = generator.choice([
        {"instances": [dict(ROW)]}, {"inputs": dict(USER)}, {"signature_name": "recommend", "inputs": dict(USER)},
        {"instances": [dict(ROW)], "k": 3, "exclude": [["i1"]], "filter": "price < 20"}, {"item": "i00003", "k": 2},
        {"signature_name": "from_examples", "instances": [{"b64": "aGk="}]},
        {"signature_name": "from_encoded", "inputs": {"x": [1]}}, {"examples": [{"a": 1}]},
    ])  # fmt: skip
    for _ in range(generator.randrange(3)):
        inner = generator.choice([document, *(each for each in document.values() if isinstance(each, dict)),
                                  *(each[0] for each in document.values() if isinstance(each, list) and each
                                    and isinstance(each[0], dict))])  # fmt: skip
        key = generator.choice([*inner, "k", "filter", "exclude", "names", "signature_name", "instances", "inputs"])
        if generator.random() < 0.2:
            inner.pop(key, None)
        else:
            inner[key] = copy.deepcopy(generator.choice(VALUES))  # which later changes must not reach
    body = bytearray(json.dumps(document).encode())
    if generator.random() < 0.3:
        for _ in range(generator.randrange(1, 4)):
            body[generator.randrange(len(body))] = generator.randrange(256)
    return bytes(body[: generator.randrange(len(body))] if generator.random() < 0.1 else body)


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.quality)])
def test_malformed_requests(tiny, count):
    generator = random.Random(count)
    before, statuses = resident(), set()
    for _ in range(count):
        path, body = generator.choice(PATHS), mutate(generator)
        answer = tiny.send("POST", path, body)
        statuses.add(answer.status)
        assert answer.status in ALLOWED, (path, body, answer.data)
        assert answer.status == 200 or json.loads(answer.data)["error"]
    assert statuses >= {200, 400, 404}
    assert resident() - before < 200 << 20
    assert tiny.post("/v1/models/tiny:recommend", {"instances": [ROW]})[0] == 200


@pytest.mark.parametrize("count", [50, pytest.param(3_000, marks=pytest.mark.quality)])
def test_random_bytes_over_grpc(tiny, count):
    from tests.serve.test_grpc import request

    generator = random.Random(count)
    valid = request("recommend").SerializeToString()
    methods = ["tensorflow.serving.PredictionService/Predict", "tensorflow.serving.PredictionService/GetModelMetadata",
               "tensorflow.serving.PredictionService/MultiInference", "tensorflow.serving.ModelService/GetModelStatus",
               "grpc.health.v1.Health/Check"]  # fmt: skip
    before, codes = resident(), set()
    with grpc.insecure_channel(tiny.grpc) as channel:
        for _ in range(count):
            body = bytearray(valid if generator.random() < 0.7 else generator.randbytes(generator.randrange(200)))
            for _ in range(generator.randrange(4) if body else 0):
                body[generator.randrange(len(body))] = generator.randrange(256)
            call = channel.unary_unary(f"/{generator.choice(methods)}")
            try:
                call(bytes(body), timeout=30)
            except grpc.RpcError as error:
                codes.add(error.code().name)
                # gRPC's own: INTERNAL is a body that is not a message, UNKNOWN one that its reader refuses
                if error.code().name == "INTERNAL":
                    assert "internal error; the service's log" not in error.details()
    assert "INVALID_ARGUMENT" in codes or "NOT_FOUND" in codes
    assert resident() - before < 200 << 20
    for port in (tiny.options.grpc_port, tiny.options.rest_port):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(generator.randbytes(10_000))
    assert tiny.post("/v1/models/tiny:recommend", {"instances": [ROW]})[0] == 200


@pytest.mark.quality
def test_schemathesis_finds_no_internal_error(tiny):
    """Requests made from the service's own OpenAPI description."""
    schemathesis = pytest.importorskip("schemathesis")
    import hypothesis

    schema = schemathesis.openapi.from_url(tiny.url("/openapi.json"))
    statuses = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=30, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        def check(case):
            answer = case.call(base_url=tiny.url(""))
            statuses.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code == 501, answer.content

        check()
    assert {200, 400} <= statuses
