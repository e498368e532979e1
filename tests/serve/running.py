"""A service in a thread of the test process."""

import asyncio
import contextlib
import json
import socket
import tarfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
USER = {"user_id": ["u000137"], "country": ["US"], "age": [30.0], "interests": [["cars"]], "device_type": ["tablet"],
        "timestamp": [1736531435], "history": [["i00114", "i00140"]]}  # fmt: skip
ROW = {name: values[0] for name, values in USER.items()}


def unpack(kind: str, root: Path) -> Path:
    """Returns an export root with version 7 of the tiny run."""
    with tarfile.open(GOLDEN / f"bundle_2_{kind}.tar.gz") as archive:
        archive.extractall(root, filter="data")
    return root / kind


def publish(root: Path, version: int, earlier: int = 7) -> None:
    """Publishes an earlier version again, as `rollback` does."""
    from twotower_tf import artifacts
    from twotower_tf.bundle import derived_version, manifest
    from twotower_tf.bundle.bundle import Bundle

    bundle = Bundle.open(root, earlier)
    with artifacts.atomic_directory(root / str(version)) as staging:
        same = derived_version.inherit(bundle, staging, version)
        manifest.write(staging, derived_version.derive_document(bundle, version, {"kind": "rollback"}), same)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """A service that runs, with an HTTP client."""

    options: Any
    service: Any
    loop: asyncio.AbstractEventLoop
    scheme: str = "http"
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False, timeout=30))

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.options.grpc_port}"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.options.rest_port}{path}"

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        return self.http.request(method, self.url(path), body=data, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Returns status and JSON of the answer."""
        answer = self.send("POST", path, body, **headers)
        return answer.status, json.loads(answer.data)

    def get(self, path: str) -> tuple[int, Any]:
        answer = self.send("GET", path)
        return answer.status, json.loads(answer.data)

    def run(self, coroutine: Any) -> Any:
        """Runs a coroutine on the service's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)


@contextlib.contextmanager
def running(export_dir: Path, **options: Any):
    """Runs a service until the block ends."""
    from twotower_tf.serve.run_service import serve
    from twotower_tf.serve.service_options import ServiceOptions

    given = {"model_name": "tiny", "access_log": False, "poll_seconds": 0.05, "grace_seconds": 5.0, **options}
    given = {"rest_port": free_port(), "grpc_port": free_port(), **given}
    chosen = ServiceOptions(export_dir=export_dir, **given)
    ready, failed, found = threading.Event(), [], []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def started(service):
        found.append(service)
        ready.set()

    def work():
        try:
            loop.run_until_complete(serve(chosen, stop, started))
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(120)
    if failed:
        thread.join()
        raise failed[0]
    try:
        yield Running(chosen, found[0], loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()
        assert not thread.is_alive() and not failed
