"""Publishes a new version of the bundle: EXPORT_DIR/VERSION with both towers, item vectors, index and manifest.

A version is published atomically by one rename and never changed afterwards. EXPORT_DIR is a valid model base path of
TensorFlow Serving.
"""

from __future__ import annotations

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("run_dir", "export_dir")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.run_dir(values)
    options.export_dir(values)
    options.publication(values)


def run(values: FlagValues) -> None:
    """Exports the bundle, and prints its tables' sizes and the version's directory."""
    from twotower_tf import progress_bar
    from twotower_tf.cli.result_texts import format_weights, print_warnings
    from twotower_tf.pipeline import Pipeline

    with progress_bar.shown() as show:
        pipeline = Pipeline.open(values.run_dir, values.export_dir, progress=show, log=print)
        result = pipeline.export(force=True, **options.publication_arguments(values))
    print(format_weights(result.path))
    print(result.path)
    print_warnings(result.warnings)
