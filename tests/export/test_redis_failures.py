"""A writer that is killed, a Redis that loses keys, a reply that is lost: what a reader finds, and what is reported."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.export.redis_reader import as_version, read_as_a_client, users_file
from twotower_tf.errors import ArtifactError
from twotower_tf.export import redis_store

REPOSITORY = Path(__file__).resolve().parents[2]
KILLED = """
import dataclasses, os, signal, sys
from twotower_tf.export import redis_store
from twotower_tf.bundle.bundle import Bundle
assert "tensorflow" not in sys.modules
moment = sys.argv[3]
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "writing":
    real, redis_store._ROWS, redis_store._COMMANDS = redis_store._item_blocks, 10, 2
    def blocks(ids, vectors):
        for number, block in enumerate(real(ids, vectors)):
            if number == 7:
                die()
            yield block
    redis_store._item_blocks = blocks
elif moment == "comparing":
    redis_store._compare = die
else:
    redis_store._versions = die
redis_store.publish(dataclasses.replace(Bundle.open(sys.argv[1]), version=8), sys.argv[2])
"""


def test_a_killed_writer_leaves_the_pointer_and_keys_that_end(bundle, server, client):
    redis_store.publish(bundle, server)
    before = read_as_a_client(client, "tiny", "i00003")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    moments = ("writing", "comparing", "switching")
    running = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(bundle.path.parent), server, each], env=environment)
        for each in moments
    ]
    assert [process.wait(timeout=120) for process in running] == [-signal.SIGKILL] * 3
    version, vector = read_as_a_client(client, "tiny", "i00003")
    assert version == before[0] == "7"
    np.testing.assert_array_equal(vector, before[1])
    leftovers = [key for key in client.keys() if b":writing-" in key]
    assert len(leftovers) == 3 and all(0 < client.ttl(key) <= 3600 for key in leftovers)
    assert sorted(client.hlen(key) for key in leftovers) == [60, 150, 150]
    redis_store.publish(as_version(bundle, 8), server)
    assert client.get("tiny:current") == b"8" and client.hlen("tiny:8:items") == 150


def test_a_write_that_was_lost_is_found(bundle, server, client, monkeypatch):
    real = redis_store._compare

    def after_a_loss(client, key, ids, vectors):
        client.hset(key, ids[0], b"\0" * 32)
        real(client, key, ids, vectors)

    monkeypatch.setattr(redis_store, "_compare", after_a_loss)
    expected = "redis: tiny:7:writing-.*:items: item 'i00000' is not as it was written; tiny:current is not set$"
    with pytest.raises(ArtifactError, match=expected):
        redis_store.publish(bundle, server)
    assert not client.exists("tiny:current")


def state(client):
    """Every key with its content and whether it ends, without what an unfinished version left."""
    keys = sorted(key for key in client.keys() if b":writing-" not in key)
    return [
        (key, client.get(key) if client.type(key) == b"string" else client.hgetall(key), client.ttl(key) == -1)
        for key in keys
    ]


LOSSES = {
    "evicted": lambda client, key: client.delete(key),
    "expired": lambda client, key: client.pexpire(key, 0),
    "one vector lost": lambda client, key: client.hdel(key, client.hkeys(key)[70]),
    "one vector more": lambda client, key: client.hset(key, "stranger", b"0"),
}


@pytest.mark.parametrize("kind", ["items", "users"])
@pytest.mark.parametrize("loss", LOSSES)
def test_vectors_that_redis_loses_before_the_switch_are_never_switched_to(
    bundle, server, client, tmp_path, monkeypatch, loss, kind
):
    """After the last look at them: it was Redis that looked once more."""
    users_file(tmp_path / "users.parquet", ids=[f"u{row}" for row in range(80)], version=7)
    redis_store.publish(as_version(bundle, 6), server, prefix="tiny")
    before = state(client)
    real = redis_store._versions

    def after_a_loss(asked, prefix):
        (key,) = (key for key in client.keys("tiny:7:writing-*") if key.decode().endswith(kind))
        LOSSES[loss](client, key)
        return real(asked, prefix)

    monkeypatch.setattr(redis_store, "_versions", after_a_loss)
    held = {"evicted": 0, "expired": 0, "one vector lost": -1, "one vector more": 1}[loss]
    count = {"items": 150, "users": 80}[kind]
    held = count + held if held else 0
    with pytest.raises(ArtifactError) as raised:
        redis_store.publish(bundle, server, users=tmp_path / "users.parquet")
    assert f":{kind} holds {held} vectors of {count}: Redis has evicted or expired it" in str(raised.value)
    assert str(raised.value).endswith("; tiny:current is 6")
    assert state(client) == before


class Proxy:
    """Passes on what a client and the server say, and cuts the connection at the script, or at its reply.

    `cuts` are taken one by one, a connection's script each: "before", "after", or "" for none; "down" refuses everybody
    from then on.
    """

    def __init__(self, server, cuts):
        self.server, self.cuts, self.down = int(server.rpartition(":")[2].partition("/")[0]), list(cuts), False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, socket.create_connection(("127.0.0.1", self.server)) as server:
            while not self.down:
                ready, _, _ = select.select([connection, server], [], [], 30)
                for side in ready:
                    data = side.recv(1 << 20)
                    if not data:
                        return
                    cut = ""
                    if side is connection and b"EVAL" in data:
                        cut = self.cuts.pop(0) if self.cuts else ""
                        while not data.endswith(b"\r\n"):
                            data += side.recv(1 << 20)
                    if cut.startswith("before"):
                        self.down = cut.endswith("down")
                        return
                    (server if side is connection else connection).sendall(data)
                    if cut:
                        server.recv(1 << 20)  # the server has done it; nobody hears of it
                        self.down = cut.endswith("down")
                        return


@pytest.fixture
def proxy(server):
    opened = []

    def start(*cuts):
        opened.append(Proxy(server, cuts))
        return opened[-1].url

    yield start
    for each in opened:
        each.listener.close()


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_lost_reply_is_asked_for_again(bundle, server, client, proxy, cut):
    redis_store.publish(as_version(bundle, 6), server, prefix="tiny")
    done = redis_store.publish(bundle, proxy(cut), prefix="tiny")
    assert (done.version, done.items) == (7, 150)
    assert client.get("tiny:current") == b"7" and client.hlen("tiny:7:items") == 150
    assert not client.keys("*writing*") and 500 < client.ttl("tiny:6:items") <= 600


def test_an_error_says_what_is_current(bundle, server, client, proxy):
    redis_store.publish(as_version(bundle, 6), server, prefix="tiny")
    with pytest.raises(ArtifactError, match="; tiny:current is 6$"):
        redis_store.publish(bundle, proxy(*["before"] * 20), prefix="tiny")
    assert client.get("tiny:current") == b"6"
    expected = r"; tiny:current cannot be read either \(.*\): look at it before you publish again$"
    with pytest.raises(ArtifactError, match=expected):
        redis_store.publish(bundle, proxy("after, then down"), prefix="tiny")
    assert client.get("tiny:current") == b"7"  # and only Redis knows


def test_a_server_without_memory_changes_nothing(bundle, server, client):
    redis_store.publish(as_version(bundle, 6), server, prefix="tiny")
    before = state(client)
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(ArtifactError, match="'maxmemory'.*; tiny:current is 6$"):
            redis_store.publish(bundle, server)
    finally:
        client.config_set("maxmemory", "0")
    assert state(client) == before
