"""Publishes a version with new and changed items, embedded by the newest version's own item tower, without training.

A row of the table holds all values of its item. Only items with new or changed feature values are embedded:
    twotower refresh --export_dir=export/ads --items=items.csv --delete=gone.txt
"""

from __future__ import annotations

from pathlib import Path

from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

REQUIRED = ("export_dir",)


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.string("items", None, "table of items in the format of data.items: file, directory or glob")
    flags.enum(
        "mode",
        "upsert",
        ["upsert", "replace"],
        "upsert keeps items that are missing from the table; replace removes them",
    )
    flags.string("delete", None, "file with the ids of items to remove, one per line")
    flags.float(
        "max_removed",
        0.5,
        "largest share of the catalogue that may be removed at once; it is an error to remove more",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.string("memory_limit", "4GB", "memory DuckDB may use to read the table")
    options.add_new_version(flags)


def run(flags: Flags) -> None:
    """Refreshes the bundle, and prints the changes and the version's directory."""
    from twotower_tf import progress_bar, resources

    resources.release_freed_tensors()
    from twotower_tf.export import refresh_bundle

    with progress_bar.shown() as show:
        done = refresh_bundle.refresh(
            Path(flags.export_dir),
            Path(flags.items) if flags.items else None,
            mode=flags.mode,
            delete=Path(flags.delete) if flags.delete else None,
            version=flags.version,
            keep=flags.keep,
            max_removed=flags.max_removed,
            memory_limit=flags.memory_limit,
            progress=show,
        )
    for line in refresh_bundle.describe_refresh(done):
        print(line)
    print(done.path)
