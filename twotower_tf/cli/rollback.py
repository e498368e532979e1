"""Publishes an earlier version again under a new, largest number, which servers pick up. Removes nothing.

twotower rollback --export_dir=export/ads --to=20260102030405
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("export_dir", "to")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_integer("to", None, "the earlier version; twotower versions lists them", flag_values=values)
    options.new_version(values)


def run(values: FlagValues) -> None:
    """Publishes the earlier version again, and prints the new version's directory."""
    from twotower_tf.bundle import rollback_version

    print(rollback_version.rollback(Path(values.export_dir), values.to, version=values.version, keep=values.keep))
