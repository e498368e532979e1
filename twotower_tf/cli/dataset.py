"""Converts a publisher's raw files to tables: events.parquet, and items.parquet and users.parquet if published.

NAME is one of movielens-100k, movielens-1m, movielens-1m-m1, gowalla, lightgcn, avazu, or lists (lists-in-order): any
text file of lines 'user item item ...' or 'user item', in the order of events. Ids stay as published.
"""

from __future__ import annotations

from pathlib import Path

from twotower_tf.cli.command import Flags

ARGUMENT = "NAME"
REQUIRED = ("output",)


def define(flags: Flags) -> None:
    flags.string(
        "source",
        None,
        "folder with the publisher's files, or the file of lists; by default files are downloaded and their checksums "
        "verified",
    )
    flags.string("output", None, "directory to write the tables to")


def run(flags: Flags) -> None:
    """Converts the files, and prints the rows of each table."""
    from twotower_tf import datasets, progress_bar

    output = Path(flags.output)
    with progress_bar.shown() as show:
        written = datasets.convert_dataset(
            flags.argument, output, source=Path(flags.source) if flags.source else None, progress=show
        )
    counts = [f"{count:,} {table}" for table, count in written.items() if isinstance(count, int)]
    print(f"{output}: {', '.join(counts)}")
