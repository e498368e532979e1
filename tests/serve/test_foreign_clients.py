"""Clients and oracles that others wrote: `saved_model_cli` and the curl lines of TensorFlow Serving's documentation."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.serve.running import ROW, USER, running

EXPRESSIONS = ";".join(f"{name}={json.dumps(values)}" for name, values in USER.items())


@pytest.mark.parametrize("signature", ["serving_default", "recommend"])
def test_predict_answers_as_saved_model_cli_run(tiny, served_root, tmp_path, signature):
    from tensorflow.python.tools import saved_model_cli

    saved_model_cli.run_saved_model_with_feed_dict(
        str(served_root / "7"), "serve", signature,
        saved_model_cli.load_inputs_from_input_arg_string("", EXPRESSIONS, ""), str(tmp_path), True,
    )  # fmt: skip
    expected = {path.stem: np.load(path, allow_pickle=True) for path in tmp_path.iterdir()}
    request = {"signature_name": signature, "inputs": USER}
    status, answer = tiny.post("/v1/models/tiny:predict", request)
    assert status == 200 and set(answer["outputs"]) == set(expected) and len(expected) > 1
    for name, values in expected.items():
        found = answer["outputs"][name]
        if values.dtype == object:
            assert found == [[text.decode() for text in row] for row in values]
        else:
            np.testing.assert_allclose(found, values, atol=1e-6)


@pytest.fixture(scope="module")
def labelled(served_root):
    with running(served_root, grpc_port=0, labels={"stable": 7}) as service:
        yield service


@pytest.fixture(scope="module")
def curl(labelled):
    """Runs curl with arguments and the rest of a URL; returns status, content type and body."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")

    def run(*arguments):
        command = ["curl", "-s", "-w", "\n%{http_code} %{content_type}", *arguments[:-1], labelled.url(arguments[-1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        body, _, last = done.stdout.rpartition("\n")
        status, _, kind = last.partition(" ")
        return int(status), kind, body

    return run


AVAILABLE = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


def test_curl_lines_of_the_documentation(curl, labelled):
    """`api_rest.md`: status, metadata, predict in both formats, with version or label; no line sets a content type."""
    model = "/v1/models/tiny"
    rows, columns = json.dumps({"instances": [ROW, ROW]}), json.dumps({"inputs": USER})
    for place in ("", "/versions/7", "/labels/stable", "/labels/unknown"):  # a status is not of a label
        status, kind, body = curl(f"{model}{place}")
        assert (status, kind, json.loads(body)) == (200, "application/json", {"model_version_status": [AVAILABLE]})
    _, expected = labelled.post(f"{model}:predict", {"instances": [ROW, ROW]})
    for place in ("", "/versions/7", "/labels/stable"):
        status, kind, body = curl(f"{model}{place}/metadata")
        assert (status, kind) == (200, "application/json")
        found = json.loads(body)
        assert found["model_spec"] == {"name": "tiny", "signature_name": "", "version": "7"}
        assert "serving_default" in found["metadata"]["signature_def"]["signature_def"]
        status, kind, body = curl("-d", rows, "-X", "POST", f"{model}{place}:predict")
        assert (status, kind, json.loads(body)) == (200, "application/json", expected)
        status, _, body = curl("-X", "POST", "-d", columns, f"{model}{place}:predict")
        assert (status, list(json.loads(body))) == (200, ["outputs"])


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["-d", '{"instances": [1.0, 2.0]}', "-X", "POST", "/v1/models/half_plus_two:predict"], 404,
         "Servable not found for request: Latest(half_plus_two)"),
        (["/v1/models/half_plus_two"], 404, "Could not find any versions of model half_plus_two"),
        (["/v1/models/half_plus_two/metadata"], 404, "Servable not found for request: Latest(half_plus_two)"),
        (["-d", '{"instances": [1.0]}', "-X", "POST", "/v1/models/tiny/versions/9:predict"], 404,
         "Servable not found for request: Specific(tiny, 9)"),
        (["-d", '{"instances": [1.0]}', "-X", "POST", "/v1/models/tiny/labels/canary:predict"], 400,
         "Unrecognized servable version label: canary"),
        (["-d", '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}', "-X", "POST",
          "/v1/models/tiny:regress"], 400, "No signature was found with the name: tensorflow/serving/regress"),
        (["-d", "{", "-X", "POST", "/v1/models/tiny:predict"], 400, "JSON Parse error: "),
        (["-X", "POST", "/v1/models/tiny"], 400, "Malformed request: POST /v1/models/tiny"),
    ],
)  # fmt: skip
def test_curl_lines_that_fail(curl, arguments, status, error):
    found, kind, body = curl(*arguments)
    assert (found, kind, list(json.loads(body))) == (status, "application/json", ["error"])
    assert json.loads(body)["error"].startswith(error)
