"""Publishes a new version of the bundle: EXPORT_DIR/VERSION with both towers, item vectors, index and manifest.

A version is published atomically by one rename and never changed afterwards. EXPORT_DIR is a valid model base path of
TensorFlow Serving.
"""

from __future__ import annotations

from pathlib import Path

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("run_dir", "export_dir")
_SHOWN = 10  # weights listed


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.run_dir(values)
    options.export_dir(values)
    options.publication(values)


def run(values: FlagValues) -> None:
    """Exports the bundle, and prints its tables' sizes and the version's directory."""
    from twotower_tf import config as configuration
    from twotower_tf import pipeline, run_lock
    from twotower_tf.cli import progress_bar

    run_dir = Path(values.run_dir)
    with run_lock.working(run_dir), progress_bar.shown() as show:
        config = configuration.load_run(run_dir)
        bundle = pipeline.Runner(config, run_dir, show, print).export(
            Path(values.export_dir),
            version=values.version,
            keep=values.keep,
            active_days=values.active_days,
            formats=values.format,
        )
    print(tables(bundle))
    print(bundle)


def tables(path: Path) -> str:
    """Formats the weights of both towers, largest first, from a version's manifest."""
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.cli import text_table

    weights = Bundle.read(path, check="light").manifest["tables"]
    sizes = [(side, name, each["shape"], each["bytes"]) for side in weights for name, each in weights[side].items()]
    largest = sorted(sizes, key=lambda each: each[3], reverse=True)
    rows = [
        [side, name, " x ".join(f"{length:,}" for length in shape), _megabytes(size)]
        for side, name, shape, size in largest[:_SHOWN]
    ]
    if len(largest) > _SHOWN:
        rest = largest[_SHOWN:]
        rows.append(["", f"{len(rest)} smaller", "", _megabytes(sum(size for *_, size in rest))])
    total = ", ".join(
        f"{side} tower {_megabytes(sum(each['bytes'] for each in weights[side].values()))}" for side in weights
    )
    return f"{text_table.text(['tower', 'weights', 'shape', 'MB'], rows, right=(3,))}\ntotal: {total} MB"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.3f}"
