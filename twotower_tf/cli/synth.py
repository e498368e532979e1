"""Writes a synthetic ads log whose true preferences are known: events, items.csv, users.csv and truth.npz.

configs/quickstart.py is its configuration.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from absl.flags import FlagValues

REQUIRED = ("output",)


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("output", None, "directory to write; replaces an earlier synthetic log", flag_values=values)
    flags.DEFINE_integer("events", 200_000, "number of impressions", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("users", 5_000, "number of users", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("items", 1_000, "number of items", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("days", 14, "number of days", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 17, "random seed; equal seeds give equal logs", lower_bound=0, flag_values=values)
    flags.DEFINE_enum("format", "csv", ["csv", "parquet"], "format of the event files", flag_values=values)


def run(values: FlagValues) -> None:
    """Writes the log, and prints its counts."""
    from twotower_tf import progress_bar
    from twotower_tf.datasets import synthetic

    with progress_bar.shown() as show:
        written = synthetic.write_synthetic_log(
            Path(values.output),
            events=values.events,
            users=values.users,
            items=values.items,
            days=values.days,
            seed=values.seed,
            format=values.format,
            progress=show,
        )
    print(
        f"{values.output}: {written['events']:,} events with {written['clicks']:,} clicks over {written['days']} days, "
        f"{written['users']:,} users, {written['items']:,} items"
    )
