"""Verifies a version of a bundle: checksums, fingerprints, canaries, signatures. Prints each check."""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options
from twotower_tf.errors import ConfigError


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    options.version(values)
    flags.DEFINE_string(
        "bundle_dir",
        None,
        "instead of --export_dir: the directory of one version, under any name, e.g. a copy of it",
        flag_values=values,
    )


def run(values: FlagValues) -> None:
    """Verifies the version, and prints each check that passed."""
    if bool(values.bundle_dir) == bool(values.export_dir):
        raise ConfigError("--export_dir or --bundle_dir is required, not both: what to verify")
    if values.bundle_dir and values.version is not None:
        raise ConfigError("--version: invalid with --bundle_dir (it is one version already); leave it out")
    from twotower_tf.bundle.bundle import Bundle

    if values.bundle_dir:
        bundle = Bundle.read(Path(values.bundle_dir))
    else:
        bundle = Bundle.open(Path(values.export_dir), values.version)
    from twotower_tf.bundle import verify_bundle  # imports TensorFlow, which takes seconds

    for check in verify_bundle.run_checks(bundle):
        print(f"ok  {check}")
