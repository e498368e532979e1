"""Publishes a new version of the bundle: EXPORT_DIR/VERSION with both towers, item vectors, index and manifest.

The version appears by one rename, whole or not at all, and is never changed afterwards. EXPORT_DIR is a TensorFlow
Serving model base path as it stands.
"""

from __future__ import annotations

from pathlib import Path

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("run_dir", "export_dir")


def define(values: FlagValues) -> None:
    """The command's flags."""
    options.run_dir(values)
    options.export_dir(values)
    options.publication(values)


def run(values: FlagValues) -> None:
    """Exports, and prints the version's directory."""
    from twotower_tf import config as configuration
    from twotower_tf.cli import progress, stages

    run_dir = Path(values.run_dir)
    config = configuration.load_run(run_dir)
    with progress.shown() as show:
        bundle = stages.Runner(config, run_dir, show, print).export(
            Path(values.export_dir), version=values.version, keep=values.keep, active_days=values.active_days
        )
    print(bundle)
