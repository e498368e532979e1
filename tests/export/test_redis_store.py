"""Vectors in a real Redis server: what a reader finds."""

import sys
import time
import urllib.parse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.export.redis_reader import as_version, read_as_a_client, users_file
from twotower_tf.cli.main import main
from twotower_tf.errors import ArtifactError, ConfigError, DataError
from twotower_tf.export import redis_store

pytest.importorskip("redis", reason="needs the package redis (extra redis)")


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
