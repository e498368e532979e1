"""Verifies a version of a bundle: checksums, fingerprints, canaries, signatures. Prints each check."""

from __future__ import annotations

from pathlib import Path

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("export_dir",)


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    options.version(values)


def run(values: FlagValues) -> None:
    """Verifies the version, and prints each check that passed."""
    from twotower_tf.bundle import verify_bundle

    for check in verify_bundle.verify(Path(values.export_dir), values.version):
        print(f"ok  {check}")
