"""The package's client: the answers of `Recommender`, over REST and gRPC; deadline and retries."""

import http.server
import threading
import time

import numpy as np
import pandas as pd
import pytest

from tests.serve.running import ROW
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.serve.client import RequestFailed, RetrievalClient


@pytest.fixture(scope="module")
def users():
    rows = [ROW, {"user_id": "u000003", "age": float("nan")}, {"country": None, "interests": ["sports", "health"]}]
    return pd.DataFrame(rows, index=["a", "b", "c"]).astype({"age": "float32"})


def address(service, scheme):
    return f"{scheme}://127.0.0.1:{service.options.rest_port if scheme == 'http' else service.options.grpc_port}"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_frame_is_answered_as_by_the_recommender(tiny, served_root, users, scheme):
    from twotower_tf.retrieval.recommender import Recommender

    exclude = [["i00057"], [], ["stranger"]]
    users = users.assign(timestamp=pd.to_datetime(users["timestamp"], unit="s", utc=True))
    expected = Recommender(served_root).recommend_frame(users, 5, "price > 20", exclude)
    with RetrievalClient(address(tiny, scheme), "tiny", batch_size=2) as client:
        found = client.recommend_frame(users, 5, "price > 20", exclude)
    assert list(found.columns) == ["user", "rank", "item_id", "score", "model_version"]
    for name in ("user", "rank", "item_id", "model_version"):
        assert found[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_refusal_has_the_code_and_the_reason(tiny, scheme):
    with RetrievalClient(address(tiny, scheme), "tiny") as client:
        with pytest.raises(RequestFailed, match="INVALID_ARGUMENT: k: invalid value 1001"):
            client.recommend([ROW], k=1001)
        with pytest.raises(DataError, match="exclude: invalid number of lists 2"):
            client.recommend([ROW], exclude=[[], []])
    with RetrievalClient(address(tiny, scheme), "other") as client:
        with pytest.raises(RequestFailed, match=r"NOT_FOUND: Servable not found for request: Latest\(other\)"):
            client.recommend([ROW])


def test_an_address_of_another_kind():
    with pytest.raises(ConfigError, match="address: invalid value 'localhost:8501'"):
        RetrievalClient("localhost:8501", "tiny")


@pytest.fixture
def stub():
    """A server that answers with the statuses of a list, one by one, after a pause; and what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        statuses, pause, seen = [], 0.0, []

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            Handler.seen.append(self.path)
            time.sleep(Handler.pause)
            status = Handler.statuses.pop(0)
            body = b'{"predictions": [], "model_version": 1}' if status == 200 else b'{"error": "busy"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Handler
    server.shutdown()
    server.server_close()


def test_what_another_try_may_mend_is_tried_again(stub):
    url, handler = stub
    handler.statuses, handler.seen = [429, 503, 200, 503, 503, 500], []
    with RetrievalClient(url, "a b", retries=2) as client:
        assert client.recommend([ROW]) == []
        assert handler.seen == ["/v1/models/a%20b:recommend"] * 3
        with pytest.raises(RequestFailed, match="UNKNOWN: busy"):
            client.recommend([ROW])
    assert handler.statuses == []


def test_the_deadline_includes_all_tries(stub):
    url, handler = stub
    handler.statuses, handler.pause = [503] * 100, 0.1
    began = time.monotonic()
    with RetrievalClient(url, "tiny", timeout_seconds=0.5, retries=50) as client:
        with pytest.raises(RequestFailed, match="DEADLINE_EXCEEDED"):
            client.recommend([ROW])
    handler.pause = 0.0
    assert 0.4 < time.monotonic() - began < 3
