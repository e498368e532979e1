"""Configuration of the data: tables, column roles, and the split into training, validation and test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from twotower_tf.config.base import Name, NonNegative, Positive, Share, config_class


@config_class
class TimeSplit:
    """Splits by time: the last rows are test, those before validation. Rows of equal time stay together.

    Attributes:
        valid_fraction: share of the rows for validation.
        test_fraction: share of the rows for test.
    """

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["TimeSplit"] = "TimeSplit"


@config_class
class DateSplit:
    """Splits by whole UTC days: `train_days`, then `valid_days`, then `test_days`, which end with the day `until`.

    Of a log partitioned in directories `dt=YYYYMMDD/` only the days inside this window are read.

    Attributes:
        train_days: number of training days.
        valid_days: number of validation days, after the training days.
        test_days: number of test days, the last days of the window.
        until: last day of the window, `YYYYMMDD` or `YYYY-MM-DD`; "" is the newest day of the log.
    """

    train_days: Positive
    valid_days: NonNegative = 1
    test_days: NonNegative = 1
    until: Annotated[str, Field(pattern=r"^(\d{8}|\d{4}-\d{2}-\d{2})?$")] = ""
    type: Literal["DateSplit"] = "DateSplit"


@config_class
class LeaveLastOut:
    """Holds out each user's last positive for test and the one before for validation; needs three positives.

    In a log without times the order of its files and rows counts.
    """

    type: Literal["LeaveLastOut"] = "LeaveLastOut"


@config_class
class GivenSplit:
    """Reads the split from a column of the events with the values `train`, `valid` and `test`.

    Attributes:
        column: that column.
    """

    column: Name = "split"
    type: Literal["GivenSplit"] = "GivenSplit"


@config_class
class RandomSplit:
    """Splits rows at random, determined by the experiment's seed and the row's position in the log.

    Attributes:
        valid_fraction: share of the rows for validation.
        test_fraction: share of the rows for test.
    """

    valid_fraction: Share = 0.1
    test_fraction: Share = 0.1
    type: Literal["RandomSplit"] = "RandomSplit"


Split = Annotated[TimeSplit | DateSplit | LeaveLastOut | GivenSplit | RandomSplit, Field(discriminator="type")]


ALIGNED = r"\s+"  # delimiter of aligned columns
_Delimiter = Annotated[str, Field(pattern=r'^([^"\r\n]{1,4}|\\t)?$')]
_Mark = Annotated[str, Field(pattern=r"^[!-/:-@\[-`{-~]?$")]  # one ASCII punctuation character


@config_class
class TextFormat:
    r"""Describes how the delimited text of one table is written, where it differs from the event log.

    Attributes:
        delimiter: field delimiter, one to four characters or `\t`; `\s+` is any number of blanks and tabs, as between
            aligned columns; "" detects it by suffix and first lines.
        quote: character around fields that contain delimiters or line ends; "" for text without quoting, as Hive and
            MySQL write it.
        escape: character before a quote inside a quoted field, e.g. a backslash; "" where a quote is doubled.
        encoding: of the files; UTF-16 with a byte order mark is recognised.
        decimal: mark before the fraction of a number: with ",", values such as `12,50` are read as `12.50`.
    """

    delimiter: _Delimiter = ""
    quote: _Mark = '"'
    escape: _Mark = ""
    encoding: Literal["utf-8", "latin-1", "cp1252", "utf-16"] = "utf-8"
    decimal: Literal[".", ","] = "."


@config_class
class DataConfig:
    r"""Locates the tables and names the roles of their columns. Paths are relative to `root`.

    Attributes:
        root: directory of the tables, relative to the working directory.
        events: file, glob or directory of the event log; the suffix gives the format.
        items: table with one row per item; "" derives the catalogue from the events (latest row per item).
        users: table with one row per user, or "".
        columns: column names of the event log if its delimited files have no header line.
        item_columns: column names of the item table, likewise.
        user_columns: column names of the user table, likewise.
        items_id: column of the item table with the item id; "" is `item_id`.
        users_id: column of the user table with the user id; "" is `user_id`.
        items_time: column of the item table with the time from which a row is valid, or "". With it, positives and
            their negatives take the values valid at the event time, and the catalogue those valid when it is prepared.
            A row without a valid time is quarantined.
        users_time: the same for the user table, whose rows are joined to the events as of the event time.
        delimiter: field delimiter of delimited files, one to four characters or `\t`; `\s+` is any number of blanks and
            tabs, as between aligned columns; "" detects it by suffix and first lines.
        quote: character around fields that contain delimiters or line ends; "" for text without quoting.
        escape: character before a quote inside a quoted field, e.g. a backslash; "" where a quote is doubled.
        encoding: of delimited files and JSON; UTF-16 with a byte order mark is recognised.
        decimal: mark before the fraction of a number in delimited files, "." or ",".
        item_format: format of the item table's delimited files where it differs from the log's, in place of
            `delimiter`, `quote`, `escape`, `encoding` and `decimal`; None is the log's format.
        user_format: the same for the user table.
        null_values: texts that mean a missing value in every table and request, e.g. `\N`, `NULL`, `nan`, `None`; ""
            always does.
        user_id: column of the user id.
        item_id: column of the item id.
        timestamp: column of the event time, or "" for a log without times.
        timestamp_format: strptime format of `timestamp`; "" recognises the forms that docs/preparing.md lists.
        label: column with 1 for a positive and 0 otherwise; "" makes every event a positive.
        positive: SQL predicate over the event columns that a positive must satisfy in addition.
        rejected: SQL predicate over the event columns that marks explicit rejections (hidden, disliked) among the rows
            that are not positives.
        exclude: SQL predicate over the event columns; matching rows are dropped and counted.
        weight: SQL expression over the event columns with a row's weight in training, at least 0, e.g.
            "CASE kind WHEN 'buy' THEN 5 ELSE 1 END"; "" is 1.
        list_id: column that identifies the list (request, page) in which the item was shown, or "".
        position: column of the item's position in that list, a number that grows downwards, or "".
        item_name: column of the item table (or the events) with a display name.
        split: how events are split into training, validation and test.
        train_on_valid: adds the validation part to the training part, whatever the split; the test part stays as it is.
            `twotower train --final` sets it, with the number of epochs that validation has chosen.
    """

    root: str = "."
    events: Name = "events.csv"
    items: str = ""
    users: str = ""
    columns: tuple[Name, ...] = ()
    item_columns: tuple[Name, ...] = ()
    user_columns: tuple[Name, ...] = ()
    items_id: str = ""
    users_id: str = ""
    items_time: str = ""
    users_time: str = ""
    delimiter: _Delimiter = ""
    quote: _Mark = '"'
    escape: _Mark = ""
    encoding: Literal["utf-8", "latin-1", "cp1252", "utf-16"] = "utf-8"
    decimal: Literal[".", ","] = "."
    item_format: TextFormat | None = None
    user_format: TextFormat | None = None
    null_values: tuple[Name, ...] = ()
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
    train_on_valid: bool = False

    @property
    def ordered(self) -> bool:
        """Whether events have an order: by time, or for `LeaveLastOut` without times by their place in the log."""
        return bool(self.timestamp) or isinstance(self.split, LeaveLastOut)

    @property
    def trained_splits(self) -> tuple[str, ...]:
        """The parts of the split whose rows train."""
        return ("train", "valid") if self.train_on_valid else ("train",)
