"""Writes item vectors, and optionally user vectors, of a version to Redis, and switches to it atomically.

Keys: PREFIX:current is the version served; PREFIX:VERSION:items and PREFIX:VERSION:users are hashes of id to vector
(float32, little-endian bytes); PREFIX:VERSION:meta describes them. If the URL has no password, it is read from the
environment variable TWOTOWER_REDIS_PASSWORD, because other users of the machine can see a command line.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("export_dir", "redis_url")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_string("redis_url", None, "redis://host:port/database, rediss://, unix://", flag_values=values)
    options.version(values)
    flags.DEFINE_string("prefix", "", "prefix of the keys (default: name of the export directory)", flag_values=values)
    flags.DEFINE_string(
        "users", None, "Parquet with user_id and vector, as written by score --vectors_only", flag_values=values
    )
    flags.DEFINE_integer(
        "grace_seconds", 600, "seconds until a superseded version expires", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer("keep", 0, "newest superseded versions that never expire", lower_bound=0, flag_values=values)


def run(values: FlagValues) -> None:
    """Publishes the vectors, and prints the current version and its counts."""
    from twotower_tf import progress_bar
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.export import redis_store

    bundle = Bundle.open(values.export_dir, values.version)
    with progress_bar.shown() as show:
        done = redis_store.publish(
            bundle,
            values.redis_url,
            prefix=values.prefix,
            users=Path(values.users) if values.users else None,
            grace_seconds=values.grace_seconds,
            keep=values.keep,
            progress=show,
        )
    users = f", {done.users:,} users" if done.users else ""
    print(f"{done.prefix}:current is {done.version}: {done.items:,} items{users}")
