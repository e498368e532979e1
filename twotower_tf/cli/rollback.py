"""Publishes an earlier version again under a new, largest number, which servers pick up. Removes nothing.

twotower rollback --export_dir=export/ads --to=20260102030405
"""

from __future__ import annotations

from pathlib import Path

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("export_dir", "to")


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.integer("to", None, "the earlier version; twotower versions lists them")
    options.add_new_version(flags)


def run(flags: Flags) -> None:
    """Publishes the earlier version again, and prints the new version's directory."""
    from twotower_tf.bundle import rollback_version

    print(rollback_version.rollback(Path(flags.export_dir), flags.to, version=flags.version, keep=flags.keep))
