"""Verifies a version of a bundle: checksums, fingerprints, canaries, signatures. Prints each check."""

from __future__ import annotations

from pathlib import Path

from twotower_tf import resources
from twotower_tf.cli import options
from twotower_tf.cli.command import Flags
from twotower_tf.errors import ConfigError


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    options.add_version(flags)
    flags.string(
        "bundle_dir", None, "instead of --export_dir: the directory of one version, under any name, e.g. a copy of it"
    )


def run(flags: Flags) -> None:
    """Verifies the version, and prints each check that passed."""
    if bool(flags.bundle_dir) == bool(flags.export_dir):
        raise ConfigError("--export_dir or --bundle_dir is required, not both: what to verify")
    if flags.bundle_dir and flags.version is not None:
        raise ConfigError("--version: invalid with --bundle_dir (it is one version already); leave it out")
    from twotower_tf.bundle.bundle import Bundle

    if flags.bundle_dir:
        bundle = Bundle.read(Path(flags.bundle_dir))
    else:
        bundle = Bundle.open(Path(flags.export_dir), flags.version)
    resources.release_freed_tensors()
    from twotower_tf.bundle import verify_bundle  # imports TensorFlow, which takes seconds

    for check in verify_bundle.run_checks(bundle):
        print(f"ok  {check}")
