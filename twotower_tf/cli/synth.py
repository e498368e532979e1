"""Writes a synthetic ads log whose true preferences are known: events, items.csv, users.csv and truth.npz.

configs/quickstart.py is its configuration.
"""

from __future__ import annotations

from pathlib import Path

from twotower_tf.cli.command import Flags

REQUIRED = ("output",)


def define(flags: Flags) -> None:
    flags.string("output", None, "directory to write; replaces an earlier synthetic log")
    flags.integer("events", 200_000, "number of impressions", lower_bound=1)
    flags.integer("users", 5_000, "number of users", lower_bound=1)
    flags.integer("items", 1_000, "number of items", lower_bound=1)
    flags.integer("days", 14, "number of days", lower_bound=1)
    flags.integer("seed", 17, "random seed; equal seeds give equal logs", lower_bound=0)
    flags.enum("format", "csv", ["csv", "parquet"], "format of the event files")


def run(flags: Flags) -> None:
    """Writes the log, and prints its counts."""
    from twotower_tf import progress_bar
    from twotower_tf.datasets import synthetic

    with progress_bar.shown() as show:
        written = synthetic.write_synthetic_log(
            Path(flags.output),
            events=flags.events,
            users=flags.users,
            items=flags.items,
            days=flags.days,
            seed=flags.seed,
            format=flags.format,
            progress=show,
        )
    print(
        f"{flags.output}: {written['events']:,} events with {written['clicks']:,} clicks over {written['days']} days, "
        f"{written['users']:,} users, {written['items']:,} items"
    )
