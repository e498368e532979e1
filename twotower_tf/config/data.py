"""Where the tables are, what their columns mean, and how events become training, validation and test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import Name, Share, config_class


@config_class
class TimeSplit:
    """The last part of the log's rows by time is test, the part before it validation. Equal times stay together."""

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["TimeSplit"] = "TimeSplit"


@config_class
class LeaveLastOut:
    """Each user's last positive is test, the one before it validation; users with fewer than three have neither."""

    type: Literal["LeaveLastOut"] = "LeaveLastOut"


@config_class
class GivenSplit:
    """A column of the events says `train`, `valid` or `test`."""

    column: Name = "split"
    type: Literal["GivenSplit"] = "GivenSplit"


@config_class
class RandomSplit:
    """Each row falls by chance, fixed by the experiment's seed and the row's place in the log."""

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["RandomSplit"] = "RandomSplit"


Split = Annotated[TimeSplit | LeaveLastOut | GivenSplit | RandomSplit, Field(discriminator="type")]


@config_class
class DataConfig:
    """Where the tables are and what their columns mean. Paths are relative to `root`.

    Attributes:
        root: directory of the tables, relative to the working directory.
        events: file, glob or directory of the event log; format by suffix.
        items: table with one row per item, or "": the catalogue is derived from the events (latest row per item).
        users: table with one row per user, or "".
        user_id: column of the user's id.
        item_id: column of the item's id.
        timestamp: column of the event's time, or "" where the log has no order.
        timestamp_format: strptime format of `timestamp`; "" recognises the formats documented in README.
        label: column with 1 for a positive and 0 otherwise; "" makes every event a positive.
        positive: SQL predicate over the event columns that a positive must satisfy as well.
        exclude: SQL predicate over the event columns; rows that satisfy it are dropped and counted.
        item_name: column of the item table (or the events) with a name to show to people.
        split: how events become training, validation and test.
    """

    root: str = "."
    events: Name = "events.csv"
    items: str = ""
    users: str = ""
    user_id: Name = "user_id"
    item_id: Name = "item_id"
    timestamp: str = "timestamp"
    timestamp_format: str = ""
    label: str = ""
    positive: str = ""
    exclude: str = ""
    item_name: str = ""
    split: Split = TimeSplit()
