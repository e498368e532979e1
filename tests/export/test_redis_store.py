"""Vectors in a real Redis server: what a reader finds, and what it finds when the writer is killed in between."""

import dataclasses
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.bundle.bundle import Bundle
from twotower_tf.cli.main import main
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.export import redis_store

redis = pytest.importorskip("redis", reason="needs the package redis (extra redis)")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a Redis server of the tests' own, on loopback."""
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
    found = redis.Redis.from_url(server)
    found.flushall()
    yield found
    found.close()


@pytest.fixture(scope="module")
def bundle(export_dir):
    return Bundle.open(export_dir)


def as_version(bundle, version):
    """The same vectors under another number."""
    return dataclasses.replace(bundle, version=version)


def read_as_a_client(client, prefix, item):
    """By the documented keys and bytes only."""
    version = client.get(f"{prefix}:current").decode()
    return version, np.frombuffer(client.hget(f"{prefix}:{version}:items", item), "<f4")


def test_a_reader_finds_every_vector_of_the_tsv(bundle, server, client):
    done = redis_store.publish(bundle, server)
    assert (done.prefix, done.version, done.items, done.users) == ("tiny", 7, 150, 0)
    for line in (bundle.path / "item_embeddings.tsv").read_text().splitlines():
        item, numbers = line.split("\t")
        version, vector = read_as_a_client(client, "tiny", item)
        assert version == "7"
        np.testing.assert_array_equal(vector, np.array(numbers.split(","), np.float32))
    meta = {key.decode(): value.decode() for key, value in client.hgetall("tiny:7:meta").items()}
    del meta["published"], meta["publication"]
    expected = {"version": "7", "vector_dim": "8", "similarity": "cosine", "dtype": "<f4", "items": "150", "users": "0"}
    assert meta == expected
    assert sorted(client.keys()) == [b"tiny:7:items", b"tiny:7:meta", b"tiny:current"]
    assert [client.ttl(key) for key in client.keys()] == [-1, -1, -1]


def test_versions_served_no_more_end_after_the_grace(bundle, server, client):
    for version in (5, 6, 7):
        redis_store.publish(as_version(bundle, version), server, prefix="ads", grace_seconds=100, keep=1)
    assert client.get("ads:current") == b"7"
    assert client.ttl("ads:7:items") == client.ttl("ads:6:items") == -1
    assert 90 < client.ttl("ads:5:items") <= 100 and 90 < client.ttl("ads:5:meta") <= 100
    client.expire("ads:5:items", 7)
    redis_store.publish(as_version(bundle, 5), server, prefix="ads", grace_seconds=1, keep=0)  # back to an older one
    assert client.get("ads:current") == b"5" and client.ttl("ads:5:items") == -1
    assert client.ttl("ads:7:items") == 1
    time.sleep(1.2)
    assert sorted(client.keys()) == [b"ads:5:items", b"ads:5:meta", b"ads:current"]


def test_publishing_again_replaces_whole_and_other_prefixes_stay(bundle, server, client):
    redis_store.publish(bundle, server, prefix="a[b]*")
    client.hset("a[b]*:7:items", "stranger", b"1234")
    redis_store.publish(bundle, server, prefix="other")
    redis_store.publish(bundle, server, prefix="a[b]*")
    assert client.hexists("a[b]*:7:items", "stranger") is False
    assert client.ttl("other:7:items") == -1 and client.get("other:current") == b"7"


def users_file(path, version=7, ids=("u1", "u2", "ü3"), width=8):
    vectors = np.random.default_rng(0).normal(size=(len(ids), width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = pa.table({"user_id": list(ids), "vector": vectors.tolist(), "model_version": [version] * len(ids)})
    pq.write_table(table.cast(table.schema.set(1, pa.field("vector", pa.list_(pa.float32())))), path)
    return vectors


def test_user_vectors(bundle, server, client, tmp_path):
    (tmp_path / "users").mkdir()
    vectors = users_file(tmp_path / "users" / "part-0.parquet")
    done = redis_store.publish(bundle, server, users=tmp_path / "users")
    assert done.users == 3
    for user, vector in zip(("u1", "u2", "ü3"), vectors, strict=True):
        np.testing.assert_array_equal(np.frombuffer(client.hget("tiny:7:users", user), "<f4"), vector)
    redis_store.publish(bundle, server)  # without users: those of the same version go
    assert not client.exists("tiny:7:users")


def test_items_live_on_while_users_are_written_for_longer_than_abandoned_keys_do(
    bundle, server, client, tmp_path, monkeypatch
):
    users_file(tmp_path / "users.parquet", ids=[f"u{row}" for row in range(12)])
    real = redis_store._user_blocks

    def slowly(*args):
        for ids, vectors in real(*args):
            for row, name in enumerate(ids):
                time.sleep(0.15)
                yield [name], vectors[row : row + 1]

    monkeypatch.setattr(redis_store, "_user_blocks", slowly)
    monkeypatch.setattr(redis_store, "_COMMANDS", 1)
    monkeypatch.setattr(redis_store, "_ABANDONED", 1)  # second; the users take 1.8
    done = redis_store.publish(bundle, server, users=tmp_path / "users.parquet")
    assert (done.items, done.users) == (150, 12)
    assert client.hlen("tiny:7:items") == 150 and client.ttl("tiny:7:items") == -1


def test_user_vectors_that_cannot_be_used(bundle, server, client, tmp_path):
    path = tmp_path / "users.parquet"

    def refused(message):
        with pytest.raises((DataError, ArtifactError)) as raised:
            redis_store.publish(bundle, server, users=path)
        assert message in str(raised.value)
        assert not client.exists("tiny:current")

    refused(f"--users: {path}: no such file, or no *.parquet in it")
    path.write_text("user_id,user_vector")
    refused(f"--users: {path}: cannot be read")
    users_file(path, version=6)
    refused(f"--users: {path}: vectors of version 6, not of 7; score them again")
    users_file(path, width=4)
    refused(f"--users: {path}: column 'vector': invalid vectors (expected 8 numbers per row)")
    users_file(path, ids=("u1", "u1"))
    refused("holds 1 vectors of 2; an id is there twice, or writes were lost")
    pq.write_table(pa.table({"user_id": ["a"], "vectors": [[1.0]]}), path)
    refused(f"--users: unknown column in {path} 'vector'; did you mean 'vectors'?")
    pq.write_table(pa.table({"user_id": ["a"], "vector": [[2.0] * 8]}), path)
    refused(f"--users: {path}: user 'a': invalid vector (expected length 1)")
    pq.write_table(
        pa.table({"user_id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))}), path
    )
    refused("--users: invalid table (expected at least one row)")


KILLED = """
import dataclasses, os, signal, sys
from twotower_tf.export import redis_store
from twotower_tf.bundle.bundle import Bundle
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


def test_the_password_comes_from_the_environment_and_is_never_shown(bundle, server, client, monkeypatch, capfd):
    place = server.partition("://")[2]
    client.config_set("requirepass", "s3/cr?et@word")
    try:
        monkeypatch.setenv("TWOTOWER_REDIS_PASSWORD", "s3/cr?et@word")
        assert redis_store.publish(bundle, server).version == 7
        monkeypatch.delenv("TWOTOWER_REDIS_PASSWORD")
        quoted = urllib.parse.quote("s3/cr?et@word", safe="")
        assert redis_store.publish(bundle, f"redis://:{quoted}@{place}").version == 7
        monkeypatch.setenv("TWOTOWER_REDIS_PASSWORD", "another")  # the URL's own comes first
        assert redis_store.publish(bundle, f"redis://:{quoted}@{place}").version == 7
        for url in (server, f"redis://me:secret@{place}", f"redis://{place}?password=secret"):
            status = main(["publish", f"--export_dir={bundle.path.parent}", f"--redis_url={url}"])
            said = "".join(capfd.readouterr())
            assert status == 2 and f"--redis_url: {server}: " in said
            assert not any(word in said for word in ("secret", "another", "s3/", "cr?et", "cr%3Fet")), said
    finally:
        client.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@host:6379/3", "redis://host:6379/3"),
        ("rediss://:se@cret@host", "rediss://host"),
        ("redis://:se/cret@host:6379/0", "redis://..."),
        ("redis://:12/secret@host:6379/0", "redis://..."),
        ("redis://:se?cret@host:6379/0", "redis://..."),
        ("redis://:se#cret@host:6379/0", "redis://..."),
        ("redis://host/0?password=secret", "redis://host/0"),
        ("redis://host/0?password=a@secret", "redis://..."),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
        ("me:secret@host", "..."),
        ("localhost", "localhost"),
    ],
)
def test_what_is_shown_of_a_url_has_no_part_of_a_password(url, shown):
    assert redis_store._shown(url) == shown


def test_no_server_no_url_no_package(bundle, monkeypatch):
    expected = "--redis_url: redis://127.0.0.1:1: .*; tiny:current cannot be read either"
    with pytest.raises(ArtifactError, match=expected):
        redis_store.publish(bundle, "redis://me:secret@127.0.0.1:1")
    for url, shown in (
        ("localhost", "localhost"),
        ("redis://:se/cret@host", "redis://..."),
        ("redis://host?color=red", "redis://host"),
    ):
        with pytest.raises(ConfigError) as raised:
            redis_store.publish(bundle, url)
        assert str(raised.value).startswith(f"--redis_url: invalid URL {shown!r} (expected redis://")
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"--redis_url: needs the package redis; pip install 'twotower-tf\[redis\]'"):
        redis_store.publish(bundle, "redis://127.0.0.1:1")
