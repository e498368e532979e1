"""Publishes a new version of the bundle: EXPORT_DIR/VERSION with both towers, item vectors, index and manifest.

A version is published atomically by one rename and never changed afterwards. EXPORT_DIR is a valid model base path of
TensorFlow Serving.
"""

from __future__ import annotations

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("run_dir", "export_dir")


def define(flags: Flags) -> None:
    options.add_run_dir(flags)
    options.add_export_dir(flags)
    options.add_publication(flags)


def run(flags: Flags) -> None:
    """Exports the bundle, and prints its tables' sizes and the version's directory."""
    from twotower_tf import progress_bar, resources
    from twotower_tf.cli.result_texts import format_weights, print_warnings
    from twotower_tf.pipeline import Pipeline

    resources.release_freed_tensors()
    with progress_bar.shown() as show:
        pipeline = Pipeline.open(flags.run_dir, flags.export_dir, progress=show, log=print)
        result = pipeline.export(force=True, **options.read_publication(flags))
    print(format_weights(result.path))
    print(result.path)
    print_warnings(result.warnings)
