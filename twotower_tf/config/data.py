"""Where the tables are, what their columns mean, and how events become training, validation and test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import Name, NonNegative, Positive, Share, config_class


@config_class
class TimeSplit:
    """The last part of the log's rows by time is test, the part before it validation. Equal times stay together."""

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["TimeSplit"] = "TimeSplit"


@config_class
class DateSplit:
    """Whole days, UTC: the last `test_days` are test, the `valid_days` before them validation, the rest training.

    A log in directories `dt=YYYYMMDD/` is read only where its days are inside the window.

    Attributes:
        train_days: days to train on.
        valid_days: days after them.
        test_days: the last days of the window.
        until: the window's last day, `YYYYMMDD` or `YYYY-MM-DD`; "" is the newest day of the log.
    """

    train_days: Positive
    valid_days: NonNegative = 1
    test_days: NonNegative = 1
    until: Annotated[str, Field(pattern=r"^(\d{8}|\d{4}-\d{2}-\d{2})?$")] = ""
    type: Literal["DateSplit"] = "DateSplit"


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


Split = Annotated[TimeSplit | DateSplit | LeaveLastOut | GivenSplit | RandomSplit, Field(discriminator="type")]


@config_class
class DataConfig:
    r"""Where the tables are and what their columns mean. Paths are relative to `root`.

    Attributes:
        root: directory of the tables, relative to the working directory.
        events: file, glob or directory of the event log; format by suffix.
        items: table with one row per item, or "": the catalogue is derived from the events (latest row per item).
        users: table with one row per user, or "".
        columns: names of the event log's columns where its delimited files have no header line.
        item_columns: the same of the item table.
        user_columns: the same of the user table.
        items_time: column of the item table with the time from which a row holds, or "". With it positives and their
            negatives have the values of the row that held at the event's time; the catalogue has those of the row that
            holds when it is prepared. A row without a usable time is quarantined.
        users_time: the same of the user table, whose rows are joined to the events.
        delimiter: one character between the fields of delimited files, or `\t`; "" takes it from suffix and header.
        user_id: column of the user's id.
        item_id: column of the item's id.
        timestamp: column of the event's time, or "" where the log has no order.
        timestamp_format: strptime format of `timestamp`; "" recognises the formats documented in README.
        label: column with 1 for a positive and 0 otherwise; "" makes every event a positive.
        positive: SQL predicate over the event columns that a positive must satisfy as well.
        rejected: SQL predicate over the event columns: a row without a positive that was refused outright (hidden,
            disliked), not only passed over.
        exclude: SQL predicate over the event columns; rows that satisfy it are dropped and counted.
        weight: SQL expression over the event columns, at least 0: how much a row counts in training, e.g.
            "CASE kind WHEN 'buy' THEN 5 ELSE 1 END"; "" is 1.
        list_id: column of the list (request, page) in which the item was shown, or "".
        position: column of the item's place in that list, a number that grows downwards, or "".
        item_name: column of the item table (or the events) with a name to show to people.
        split: how events become training, validation and test.
    """

    root: str = "."
    events: Name = "events.csv"
    items: str = ""
    users: str = ""
    columns: tuple[Name, ...] = ()
    item_columns: tuple[Name, ...] = ()
    user_columns: tuple[Name, ...] = ()
    items_time: str = ""
    users_time: str = ""
    delimiter: Annotated[str, Field(pattern=r'^([^"\r\n]|\\t)?$')] = ""
    user_id: Name = "user_id"
    item_id: Name = "item_id"
    timestamp: str = "timestamp"
    timestamp_format: str = ""
    label: str = ""
    positive: str = ""
    rejected: str = ""
    exclude: str = ""
    weight: str = ""
    list_id: str = ""
    position: str = ""
    item_name: str = ""
    split: Split = TimeSplit()
