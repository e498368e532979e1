"""Publishes a version with new and changed items, embedded by the newest version's own item tower, without training.

A row of the table holds all values of its item. Only items with new or changed feature values are embedded:
    twotower refresh --export_dir=export/ads --items=items.csv --delete=gone.txt
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("export_dir",)


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_string(
        "items", None, "table of items in the format of data.items: file, directory or glob", flag_values=values
    )
    flags.DEFINE_enum(
        "mode",
        "upsert",
        ["upsert", "replace"],
        "upsert keeps items that are missing from the table; replace removes them",
        flag_values=values,
    )
    flags.DEFINE_string("delete", None, "file with the ids of items to remove, one per line", flag_values=values)
    flags.DEFINE_float(
        "max_removed",
        0.5,
        "largest share of the catalogue that may be removed at once; it is an error to remove more",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_string("memory_limit", "4GB", "memory DuckDB may use to read the table", flag_values=values)
    options.new_version(values)


def run(values: FlagValues) -> None:
    """Refreshes the bundle, and prints the changes and the version's directory."""
    from twotower_tf import progress_bar
    from twotower_tf.export import refresh_bundle

    with progress_bar.shown() as show:
        done = refresh_bundle.refresh(
            Path(values.export_dir),
            Path(values.items) if values.items else None,
            mode=values.mode,
            delete=Path(values.delete) if values.delete else None,
            version=values.version,
            keep=values.keep,
            max_removed=values.max_removed,
            memory_limit=values.memory_limit,
            progress=show,
        )
    for line in refresh_bundle.describe_refresh(done):
        print(line)
    print(done.path)
