"""Writes a version's item vectors, and user vectors, to Redis, and switches to it by one script.

Keys: PREFIX:current is the version served; PREFIX:VERSION:items and PREFIX:VERSION:users are hashes of id to vector,
float32 in little-endian bytes; PREFIX:VERSION:meta describes them. The password is that of the environment variable
TWOTOWER_REDIS_PASSWORD, where the URL has none: others see a command line.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("export_dir", "redis_url")


def define(values: FlagValues) -> None:
    """The command's flags."""
    options.export_dir(values)
    flags.DEFINE_string("redis_url", None, "redis://host:port/database, rediss://, unix://", flag_values=values)
    options.version(values)
    flags.DEFINE_string("prefix", "", "of the keys; by default the export directory's name", flag_values=values)
    flags.DEFINE_string(
        "users", None, "Parquet with user_id and vector, as score --vectors_only writes", flag_values=values
    )
    flags.DEFINE_integer("grace_seconds", 600, "that versions served no more stay", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "keep", 0, "versions served no more that stay without end, the newest ones", lower_bound=0, flag_values=values
    )


def run(values: FlagValues) -> None:
    """Publishes, and prints what is there now."""
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.cli import progress_bar
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
