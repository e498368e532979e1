"""Writes item and user vectors to Redis next to the served version, and switches to them by one transaction.

Keys, below a prefix (the export directory's name by default):

- `PREFIX:current`: the version that is served, in decimal text.
- `PREFIX:VERSION:items`, `PREFIX:VERSION:users`: hashes of id to vector, float32 in little-endian bytes.
- `PREFIX:VERSION:meta`: a hash of version, vector_dim, similarity, dtype, items, users, published (UTC).

A reader asks `GET PREFIX:current` and then `HGET PREFIX:VERSION:items ID`. A version is written under a name of its
own, counted, compared by sample, and then appears together with the pointer by one script, which counts again: a writer
that is killed before leaves the pointer where it was, and keys that expire; vectors that Redis has evicted or expired
meanwhile are never switched to. The versions before stay for a grace period, then Redis drops them.

The meta hash has a random `publication` as well: the script may be sent twice where its reply was lost.
"""

from __future__ import annotations

import os
import re
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.bundle.bundle import Bundle, format_now
from twotower_tf.errors import ArtifactError, ConfigError, DataError, TwoTowerError, unknown_name
from twotower_tf.progress import Progress, silent

if TYPE_CHECKING:
    import redis

Floats = npt.NDArray[np.float32]
Vectors = Iterator[tuple[Sequence[str], Floats]]

ITEMS, USERS, META, CURRENT = "items", "users", "meta", "current"
USER_ID, USER_VECTOR, MODEL_VERSION = "user_id", "vector", "model_version"

PASSWORD = "TWOTOWER_REDIS_PASSWORD"  # environment variable; command lines are seen by others

_ROWS = 1000  # vectors per command
_COMMANDS = 16  # per round trip
_ABANDONED = 3600  # seconds without a write after which an unfinished version is dropped
_COMPARED = 100  # vectors read back before the switch
_NORM = 1e-3
_NO_END = -1  # TTL's answer for a key that does not expire

# KEYS: current, meta, then written name and final name of each kind, keys to remove, keys that get an end.
# ARGV: version, publication, number of kinds, number of keys to remove, seconds, vectors of each kind, fields of meta.
_SWITCH = """
local kinds, removed = tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('HGET', KEYS[2], 'publication') == ARGV[2] then
  return {}
end
for i = 1, kinds do
  local held = redis.call('HLEN', KEYS[2 * i + 1])
  if held ~= tonumber(ARGV[5 + i]) then
    return {KEYS[2 * i + 1], held, ARGV[5 + i]}
  end
end
for i = 1, kinds do
  redis.call('RENAME', KEYS[2 * i + 1], KEYS[2 * i + 2])
  redis.call('PERSIST', KEYS[2 * i + 2])
end
local rest = 2 * kinds + 3
for i = rest, rest + removed - 1 do
  redis.call('UNLINK', KEYS[i])
end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 6 + kinds))
redis.call('SET', KEYS[1], ARGV[1])
for i = rest + removed, #KEYS do
  redis.call('EXPIRE', KEYS[i], ARGV[5])
end
return {}
"""


@dataclass(frozen=True)
class Published:
    """What is in Redis now: key prefix, version, numbers of vectors."""

    prefix: str
    version: int
    items: int
    users: int


def publish(
    bundle: Bundle,
    url: str,
    *,
    prefix: str = "",
    users: Path | None = None,
    grace_seconds: int = 600,
    keep: int = 0,
    progress: Progress = silent,
) -> Published:
    """Writes a version's vectors and makes it the one that is served.

    Args:
        bundle: the version, every file of it checked.
        url: `redis://[user@]host[:port][/database]`, `rediss://` for TLS, `unix://path`. Its password, where it has
            none, is that of the environment variable TWOTOWER_REDIS_PASSWORD; no error shows either.
        prefix: of the keys; the export directory's name by default.
        users: Parquet file, or directory of such, with `user_id`, `vector` and perhaps `model_version`.
        grace_seconds: that versions which are served no more stay.
        keep: of these, so many newest ones stay without end.
        progress: called with the number of vectors written.

    Raises:
        ConfigError: if redis-py is not installed, or for an invalid URL.
        DataError: for user vectors that cannot be used.
        ArtifactError: where Redis cannot be reached, refuses, or holds something else than was written; it says which
            version is current then.
    """
    prefix = prefix or bundle.path.resolve().parent.name
    client = _client(url)
    import redis

    try:
        return _publish(client, bundle, prefix, users, grace_seconds, keep, progress)
    except redis.RedisError as error:
        raise ArtifactError(f"--redis_url: {_shown(url)}: {error}; {_current(client, prefix)}") from None
    except _Lost as error:
        raise ArtifactError(f"{error}; {_current(client, prefix)}") from None
    finally:
        client.close()


class _Lost(TwoTowerError):
    """Redis holds something else than was written."""


def _current(client: Any, prefix: str) -> str:
    """Returns a text with the version that is served, looked up after an error."""
    import redis

    key = f"{prefix}:{CURRENT}"
    try:
        version = client.get(key)
    except redis.RedisError as error:
        return f"{key} cannot be read either ({error}): look at it before you publish again"
    return f"{key} is {version.decode(errors='replace')}" if version is not None else f"{key} is not set"


def _client(url: str) -> redis.Redis:
    try:
        import redis
    except ImportError:
        raise ConfigError("--redis_url: needs the package redis; pip install 'twotower-tf[redis]'") from None
    try:
        client: redis.Redis = redis.Redis.from_url(
            url, socket_timeout=60, socket_connect_timeout=10, password=os.environ.get(PASSWORD) or None
        )
        client.connection_pool.make_connection()  # connects to nothing yet
    except (ValueError, TypeError):  # their texts may hold a part of the password
        raise ConfigError(
            f"--redis_url: invalid URL {_shown(url)!r} (expected redis://[user@]host[:port][/database], rediss:// or "
            f"unix://path); give the password by the environment variable {PASSWORD}"
        ) from None
    return client


def _shown(url: str) -> str:
    """Returns the URL's scheme, host, port and database, or path; `...` where it may contain a password."""
    scheme = url.partition("://")[0] if "://" in url else ""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{scheme}://..."
    path = parts.path if parts.scheme == "unix" or re.fullmatch(r"/\d*", parts.path) else ""
    if not scheme or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return f"{scheme}://..." if scheme else "..." if "@" in url or ":" in url else url
    return f"{scheme}://{host}{port}{path}"


def _publish(
    client: Any, bundle: Bundle, prefix: str, users: Path | None, grace_seconds: int, keep: int, progress: Progress
) -> Published:
    items = bundle.searcher().items
    dim = items.dim
    publication = uuid.uuid4().hex[:12]
    mine = f"{prefix}:{bundle.version}:writing-{publication}"
    names = {ITEMS: f"{mine}:{ITEMS}"} | ({} if users is None else {USERS: f"{mine}:{USERS}"})
    given = {ITEMS: (_item_blocks(items.ids, items.vectors), len(items))}
    if users is not None:
        given[USERS] = (_user_blocks(users, bundle, dim), 0)
    written = {kind: _write(client, names, kind, *blocks, progress) for kind, blocks in given.items()}
    facts = {
        "version": bundle.version,
        "vector_dim": dim,
        "similarity": bundle.manifest["similarity"],
        "dtype": "<f4",
        ITEMS: written[ITEMS],
        USERS: written.get(USERS, 0),
        "published": format_now(),
        "publication": publication,
    }
    _compare(client, names[ITEMS], items.ids, items.vectors)
    _switch(client, prefix, bundle.version, names, facts, grace_seconds, keep)
    return Published(prefix, bundle.version, written[ITEMS], written.get(USERS, 0))


def _item_blocks(ids: npt.NDArray[Any], vectors: Floats) -> Vectors:
    for start in range(0, len(ids), _ROWS):
        yield ids[start : start + _ROWS].tolist(), vectors[start : start + _ROWS]


def _parts(path: Path) -> list[Path]:
    found = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    found = [part for part in found if part.is_file()]
    if not found:
        raise DataError(f"--users: {path}: no such file, or no *.parquet in it")
    return found


def _user_blocks(path: Path, bundle: Bundle, dim: int) -> Vectors:
    """Yields the user vectors of Parquet files, checked."""
    for part in _parts(path):
        try:
            file = pq.ParquetFile(part)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"--users: {part}: cannot be read: {error}") from None
        with file:
            names = file.schema_arrow.names
            for column in (USER_ID, USER_VECTOR):
                if column not in names:
                    raise DataError(
                        f"--users: {unknown_name(f'column in {part}', column, names)}; "
                        "twotower score --vectors_only writes such files"
                    )
            wanted = [name for name in (USER_ID, USER_VECTOR, MODEL_VERSION) if name in names]
            for batch in file.iter_batches(batch_size=_ROWS, columns=wanted):
                yield _user_block(part, batch, bundle, dim)


def _user_block(part: Path, batch: pa.RecordBatch, bundle: Bundle, dim: int) -> tuple[Sequence[str], Floats]:
    ids = batch[USER_ID].cast(pa.string()).to_pylist()
    if MODEL_VERSION in batch.schema.names:
        others = sorted(set(batch[MODEL_VERSION].to_pylist()) - {bundle.version})
        if others:
            raise DataError(
                f"--users: {part}: vectors of version {others[0]}, not of {bundle.version}; score them again"
            )
    values = batch[USER_VECTOR].flatten().cast(pa.float32())
    if len(values) != len(ids) * dim or values.null_count:
        raise DataError(f"--users: {part}: column {USER_VECTOR!r}: invalid vectors (expected {dim} numbers per row)")
    vectors = np.ascontiguousarray(values.to_numpy(zero_copy_only=False).reshape(-1, dim))
    bad = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) <= _NORM)
    if bad.any():
        raise DataError(f"--users: {part}: user {ids[int(np.argmax(bad))]!r}: invalid vector (expected length 1)")
    if not all(ids):
        raise DataError(f"--users: {part}: invalid empty user id")
    return ids, vectors


def _write(client: Any, names: dict[str, str], kind: str, blocks: Vectors, total: int, progress: Progress) -> int:
    """Writes vectors into the hash `names[kind]`, some commands per round trip; returns how many ids it holds.

    All of the unfinished version's keys live on while one of them is written, however long that takes.
    """
    key, done, waiting = names[kind], 0, 0
    pipe = client.pipeline(transaction=False)
    for ids, vectors in blocks:
        rows = np.ascontiguousarray(vectors, "<f4")
        pipe.hset(key, mapping={name: row.tobytes() for name, row in zip(ids, rows, strict=True)})
        for each in names.values():
            pipe.expire(each, _ABANDONED)
        done, waiting = done + len(ids), waiting + 1
        if waiting == _COMMANDS:
            pipe.execute()
            waiting = 0
            progress(f"publish {kind}", done, total)
    pipe.execute()
    progress(f"publish {kind}", done, total)
    held = client.hlen(key)
    if not held:
        raise DataError("--users: invalid table (expected at least one row)")
    if held != done:
        raise _Lost(f"redis: {key} holds {held} vectors of {done}; an id is there twice, or writes were lost")
    return int(held)


def _compare(client: Any, key: str, ids: npt.NDArray[Any], vectors: Floats) -> None:
    rows = np.unique(np.linspace(0, len(ids) - 1, _COMPARED).astype(np.int64))
    stored = client.hmget(key, ids[rows].tolist())
    for row, value in zip(rows, stored, strict=True):
        if value != vectors[row].astype("<f4").tobytes():
            raise _Lost(f"redis: {key}: item {ids[row]!r} is not as it was written")


def _switch(
    client: Any, prefix: str, version: int, names: dict[str, str], facts: dict[str, Any], grace_seconds: int, keep: int
) -> None:
    """Runs one script: counts vectors, names the new keys, moves the pointer, lets the other versions expire.

    Raises:
        _Lost: where a key that was written is not whole any more; nothing was changed then.
    """
    others = [other for other in _versions(client, prefix) if other != version]
    kept = sorted(others)[-keep:] if keep else []
    ends = [
        key
        for key in (
            f"{prefix}:{other}:{kind}" for other in others if other not in kept for kind in (ITEMS, USERS, META)
        )
        if client.ttl(key) == _NO_END
    ]
    final = {kind: f"{prefix}:{version}:{kind}" for kind in (ITEMS, USERS)}
    removed = [final[kind] for kind in final if kind not in names]
    renamed = [key for kind in names for key in (names[kind], final[kind])]
    keys = [f"{prefix}:{CURRENT}", f"{prefix}:{version}:{META}", *renamed, *removed, *ends]
    counts = [facts[kind] for kind in names]
    fields = [text for pair in facts.items() for text in pair]
    arguments = [version, facts["publication"], len(names), len(removed), grace_seconds, *counts, *fields]
    answer = _run_script(client, keys, arguments)
    if answer:
        key, held, wanted = answer
        raise _Lost(
            f"redis: {key.decode()} holds {held} vectors of {wanted.decode()}: Redis has evicted or expired it, or "
            "somebody else changed it; give Redis more memory (maxmemory), and publish again"
        )


def _run_script(client: Any, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
    """Runs the switch, once more where its reply was lost: the second changes nothing if the first was executed."""
    import redis

    try:
        answer: list[Any] = client.eval(_SWITCH, len(keys), *keys, *arguments)
    except (redis.ConnectionError, redis.TimeoutError):
        answer = client.eval(_SWITCH, len(keys), *keys, *arguments)
    return answer


def _versions(client: Any, prefix: str) -> list[int]:
    """Lists the versions below a prefix, by the hashes that describe them."""
    pattern = "".join(f"[{mark}]" if mark in "*?[]^-\\" else mark for mark in prefix)
    found = []
    for key in client.scan_iter(match=f"{pattern}:*:{META}", count=1000):
        version = key.decode()[len(prefix) + 1 : -len(META) - 1]
        if version.isdecimal():
            found.append(int(version))
    return found
