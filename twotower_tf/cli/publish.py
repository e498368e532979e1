"""Writes item vectors, and optionally user vectors, of a version to Redis, and switches to it atomically.

Keys: PREFIX:current is the version served; PREFIX:VERSION:items and PREFIX:VERSION:users are hashes of id to vector
(float32, little-endian bytes); PREFIX:VERSION:meta describes them. If the URL has no password, it is read from the
environment variable TWOTOWER_REDIS_PASSWORD, because other users of the machine can see a command line.
"""

from __future__ import annotations

from pathlib import Path

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("export_dir", "redis_url")


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.string("redis_url", None, "redis://host:port/database, rediss://, unix://")
    options.add_version(flags)
    flags.string("prefix", "", "prefix of the keys (default: name of the export directory)")
    flags.string("users", None, "Parquet with user_id and vector, as written by score --vectors_only")
    flags.integer("grace_seconds", 600, "seconds until a superseded version expires", lower_bound=1)
    flags.integer("keep", 0, "newest superseded versions that never expire", lower_bound=0)


def run(flags: Flags) -> None:
    """Publishes the vectors, and prints the current version and its counts."""
    from twotower_tf import progress_bar
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.export import redis_store

    bundle = Bundle.open(flags.export_dir, flags.version)
    with progress_bar.shown() as show:
        done = redis_store.publish(
            bundle,
            flags.redis_url,
            prefix=flags.prefix,
            users=Path(flags.users) if flags.users else None,
            grace_seconds=flags.grace_seconds,
            keep=flags.keep,
            progress=show,
        )
    users = f", {done.users:,} users" if done.users else ""
    print(f"{done.prefix}:current is {done.version}: {done.items:,} items{users}")
