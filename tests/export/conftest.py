"""A Redis server of the tests' own."""

import shutil
import socket
import subprocess
import time

import pytest

from twotower_tf.bundle.bundle import Bundle


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a Redis server of the tests' own, on loopback."""
    redis = pytest.importorskip("redis", reason="needs the package redis (extra redis)")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(place)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    client.close()
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture
def client(server):
    import redis

    found = redis.Redis.from_url(server)
    found.flushall()
    yield found
    found.close()


@pytest.fixture(scope="module")
def bundle(export_dir):
    return Bundle.open(export_dir)
