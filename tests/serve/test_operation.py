"""Operation: token, TLS, full queue, deadline, reload of new and broken versions, stop."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
import urllib3
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serve.running import ROW, free_port, publish, running, unpack

PATH = "/v1/models/tiny:recommend"
REQUEST = predict_pb2.PredictRequest(
    model_spec={"name": "tiny", "signature_name": "from_examples"},
    inputs={"examples": {"dtype": 7, "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [b""]}},
)
BODY = {"instances": [ROW], "k": 3}


def test_tls_and_bearer_token(served_root, certificate):
    cert, key = map(str, certificate)
    with running(served_root, tls_cert=cert, tls_key=key, token="s3cret") as service:
        service.scheme, service.http = "https", urllib3.PoolManager(retries=False, ca_certs=cert)
        assert service.get("/healthz")[0] == service.get("/readyz")[0] == 200
        for path in ("/metrics", "/page.json", "/v1/models/tiny"):
            answer = service.send("GET", path)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
        for header in ("s3cret", "Basic s3cret", "Bearer s3cre", "Bearer s3cret "[:-3]):
            assert service.send("POST", PATH, BODY, Authorization=header).status == 401
        status, answer = service.post(PATH, BODY, Authorization="bearer s3cret")
        assert status == 200 and answer["model_version"] == 7
        credentials = grpc.ssl_channel_credentials(certificate[0].read_bytes())
        with grpc.secure_channel(service.grpc, credentials) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            with pytest.raises(grpc.RpcError) as caught:
                predict(REQUEST, timeout=30)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            metadata = [("authorization", "Bearer s3cret")]
            assert predict(REQUEST, timeout=30, metadata=metadata).model_spec.version.value == 7


def test_a_full_queue_a_deadline_and_the_end(served_root, monkeypatch):
    """The worker is held up by hand; open requests are finished when the service stops."""
    from twotower_tf.serve.served_version import ServedVersion

    go, begun = threading.Event(), threading.Event()
    compute = ServedVersion.compute_batch

    def held(self, signature, requests):
        begun.set()
        assert go.wait(30)
        return compute(self, signature, requests)

    with running(served_root, workers=1, max_queue=2, timeout_seconds=60.0) as service:
        monkeypatch.setattr(ServedVersion, "compute_batch", held)
        answers = []

        def send():
            answers.append(service.post(PATH, BODY))

        threads = [threading.Thread(target=send)]
        threads[0].start()
        assert begun.wait(30)
        for _ in range(2):
            threads.append(threading.Thread(target=send))
            threads[-1].start()
        while service.run(_length(service)) < 2:
            time.sleep(0.01)
        status, answer = service.post(PATH, BODY)
        assert status == 429 and "The queue is full (2 requests)" in answer["error"]

        with grpc.insecure_channel(service.grpc) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            with pytest.raises(grpc.RpcError) as caught:
                predict(REQUEST, timeout=30)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        threading.Timer(0.3, go.set).start()
    for thread in threads:  # the service has stopped
        thread.join(30)
    assert [status for status, _ in answers] == [200, 200, 200]


async def _length(service):
    return len(service.service._queue)


def test_a_request_that_takes_too_long_is_504(served_root, monkeypatch):
    from twotower_tf.serve.served_version import ServedVersion

    go = threading.Event()
    with running(served_root, grpc_port=0, timeout_seconds=0.1) as service:
        compute = ServedVersion.compute_batch
        monkeypatch.setattr(ServedVersion, "compute_batch", lambda *arguments: go.wait(30) and compute(*arguments))
        assert service.post(PATH, BODY) == (504, {"error": "Deadline exceeded"})
        go.set()


def test_new_versions_are_loaded_and_broken_ones_skipped(tmp_path):
    root = unpack("exact", tmp_path)
    with running(root, grpc_port=0) as service:
        assert service.post(PATH, BODY)[1]["model_version"] == 7
        broken = root / ".broken"
        shutil.copytree(root / "7", broken)
        with open(broken / "variables" / "variables.data-00000-of-00001", "r+b") as file:
            file.seek(100)
            file.write(b"damage")
        broken.rename(root / "8")
        _wait(lambda: "8" in [each["version"] for each in _status(service) if each["state"] == "END"])
        (entry,) = [each for each in _status(service) if each["version"] == "8"]
        assert entry["status"]["error_code"] == "UNKNOWN" and entry["status"]["error_message"]
        assert service.post(PATH, BODY)[1]["model_version"] == 7
        shutil.rmtree(root / "8")
        publish(root, 9)
        _wait(lambda: service.post(PATH, BODY)[1]["model_version"] == 9)
        assert [each["version"] for each in _status(service) if each["state"] == "AVAILABLE"] == ["9"]
        assert "twotower_load_failures_total 1.0" in service.send("GET", "/metrics").data.decode()


def _status(service):
    return service.get("/v1/models/tiny")[1]["model_version_status"]


def _wait(condition):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_port_in_use_is_one_line(served_root, tiny):
    from twotower_tf.errors import ConfigError

    with pytest.raises(ConfigError, match=f"--rest_port: 127.0.0.1:{tiny.options.rest_port} cannot be used"):
        with running(served_root, rest_port=tiny.options.rest_port):
            pass
    with pytest.raises(ConfigError, match=f"--grpc_port: 127.0.0.1:{tiny.options.grpc_port} cannot be used"):
        with running(served_root, grpc_port=tiny.options.grpc_port):
            pass


def test_answers_leave_without_delay():
    """Headers and body are two packets: without TCP_NODELAY the second waits for the client's acknowledgement."""
    from twotower_tf.serve.run_service import _listen

    port = free_port()
    with _listen("127.0.0.1", port) as listening, socket.create_connection(("127.0.0.1", port)):
        with listening.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_that_send_nothing_are_bounded(served_root):
    with running(served_root, grpc_port=0, max_queue=1) as service:
        assert service.get("/healthz")[0] == 200  # one connection, which is kept
        address = ("127.0.0.1", service.options.rest_port)
        with contextlib.ExitStack() as opened:
            for _ in range(103):
                opened.enter_context(socket.create_connection(address))
            _wait(lambda: service.send("GET", "/healthz").status == 503)
        _wait(lambda: service.send("GET", "/healthz").status == 200)


def test_as_many_files_may_be_open_as_there_are_connections():
    from twotower_tf.serve.run_service import _allow_files

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
        for count in (1100, 900):  # raised, never lowered
            _allow_files(count)
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1100, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("place", "reason"),
    [("no/where", "no does not exist (expected an export directory"), ("file", "(expected a directory)")],
)
def test_a_misspelt_export_directory_is_an_error(tmp_path, capsys, place, reason):
    from twotower_tf.cli.main import main

    (tmp_path / "file").write_text("")
    flags = [f"--export_dir={tmp_path / place}", f"--rest_port={free_port()}", "--grpc_port=0"]
    assert main(["serve", *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("twotower serve: --export_dir: invalid value ") and reason in error


def test_a_directory_that_is_made_later_is_served(tmp_path):
    with running(tmp_path / "exact", grpc_port=0) as service:
        assert service.get("/readyz") == (503, {"ready": False})
        assert service.post(PATH, BODY)[0] == service.get("/v1/models/tiny")[0] == 404
        unpack("exact", tmp_path / "staging").rename(tmp_path / "exact")
        _wait(lambda: service.get("/readyz")[0] == 200)
        assert service.post(PATH, BODY)[1]["model_version"] == 7


@contextlib.contextmanager
def command(root, **environment):
    """The real process over an export root; yields it, its HTTP address, and the seconds until it was ready."""
    port, began = free_port(), time.monotonic()
    flags = [f"--export_dir={root}", f"--rest_port={port}", "--grpc_port=0", "--model_name=tiny", "--poll_seconds=0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "twotower_tf", "serve", *flags], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "TF_NUM_INTRAOP_THREADS": "1", **environment},
    )  # fmt: skip
    address, http = f"http://127.0.0.1:{port}", urllib3.PoolManager(retries=False)

    def ready():
        assert process.poll() is None, process.stderr.read()
        try:
            return http.request("GET", f"{address}/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    try:
        _wait(ready)
        yield process, address, time.monotonic() - began
    finally:
        process.kill()


def _post(address):
    answer = urllib3.request("POST", address + PATH, body=json.dumps(BODY).encode(), retries=False)
    return answer.status, json.loads(answer.data)


def test_the_command_logs_requests_and_ends_with_sigterm(tmp_path):
    """Started with a corrupt newest version, stopped by a signal."""
    root = unpack("exact", tmp_path)
    shutil.copytree(root / "7", root / "8")  # its manifest says 7
    with command(root) as (process, address, _):
        assert _post(address)[1]["model_version"] == 7
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "version 8: cannot be loaded" in errors
    last = json.loads(out.splitlines()[-1])
    assert (last["method"], last["path"], last["status"]) == ("POST", PATH, 200)
    assert "u000137" not in out


@pytest.mark.quality
def test_after_a_kill_it_serves_again_in_the_time_of_a_start(tmp_path):
    """With a version that was cut off while it was copied: skipped, logged, stated."""
    root = unpack("exact", tmp_path)
    with command(root) as (process, address, first):
        answer = _post(address)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    shutil.copytree(root / "7", root / "9", ignore=shutil.ignore_patterns("*.data-*", "items.parquet"))
    with command(root) as (process, address, again):
        assert _post(address) == answer == (200, answer[1])
        states = urllib3.request("GET", address + "/v1/models/tiny").json()["model_version_status"]
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
    print(json.dumps({"first_seconds": round(first, 2), "again_seconds": round(again, 2)}))
    assert again < 1.5 * first + 1  # other work on the machine
    assert [(each["version"], each["state"]) for each in states] == [("9", "END"), ("7", "AVAILABLE")]
    assert states[0]["status"]["error_code"] == "UNKNOWN" and states[0]["status"]["error_message"]
    assert "version 9: cannot be loaded: " in errors
