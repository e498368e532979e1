"""Splits a log by whole days (`DateSplit`): the days of each split, and the files that can contain them.

The window ends with `until`, or with the newest day: that of the newest `dt=YYYYMMDD/` directory, or else of the newest
event. A row's day is the UTC date of its time, or, in a log without times, its `dt`. Directories outside the window are
not read; rows outside it are excluded and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from twotower_tf.config import DateSplit
from twotower_tf.errors import DataError
from twotower_tf.tables.timestamps import SECONDS_PER_DAY

if TYPE_CHECKING:
    from twotower_tf.tables.input_files import InputFile

PARTITION = "dt"
EXCLUDED = "outside the days of data.split"
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Window:
    """The days of a `DateSplit`, first and last included."""

    split: DateSplit
    last: date

    @property
    def first(self) -> date:
        days = self.split.train_days + self.split.valid_days + self.split.test_days
        return self.last - timedelta(days=days - 1)

    def sql(self, day: str) -> str:
        """Returns SQL of `train`, `valid` or `test` for a day counted from 1970-01-01; NULL outside the window."""
        last = (self.last - _EPOCH).days
        test = last - self.split.test_days + 1
        valid = test - self.split.valid_days
        train = valid - self.split.train_days
        return (
            f"CASE WHEN {day} > {last} OR {day} < {train} OR {day} IS NULL THEN NULL WHEN {day} >= {test} THEN 'test' "
            f"WHEN {day} >= {valid} THEN 'valid' ELSE 'train' END"
        )


def parse_day(text: str) -> date | None:
    """Parses a day written as `YYYYMMDD` or `YYYY-MM-DD`; None for any other text."""
    form = "%Y-%m-%d" if "-" in text else "%Y%m%d"
    try:
        return datetime.strptime(text, form).date()
    except ValueError:
        return None


def time_day_sql(seconds: str) -> str:
    """Returns SQL for the day of epoch seconds, counted from 1970-01-01."""
    return f"CAST(floor({seconds} / {SECONDS_PER_DAY}.0) AS BIGINT)"


def partition_day_sql(text: str) -> str:
    """Returns SQL for the day of a `dt`, counted from 1970-01-01; NULL for an invalid day."""
    parsed = f"try_strptime(replace({text}, '-', ''), '%Y%m%d')"
    return f"CAST(floor(epoch({parsed}) / {SECONDS_PER_DAY}.0) AS BIGINT)"


def parse_partition_day(source: InputFile) -> date | None:
    """Returns the day of the `dt=` directory above a file; None where there is none.

    Raises:
        DataError: for an invalid day.
    """
    text = dict(source.partition).get(PARTITION)
    if text is None:
        return None
    day = parse_day(text)
    if day is None:
        raise DataError(f"{source.name}: {PARTITION}: invalid day {text!r} (expected e.g. {PARTITION}=20260131)")
    return day


def find_window(split: DateSplit, sources: Sequence[InputFile], newest: int | None = None) -> Window | None:
    """Finds the window of a log; None where it depends on the time of the newest event, epoch seconds, and has none."""
    if split.until:
        last = parse_day(split.until)
        return Window(split, last) if last else None
    partitions = [day for day in map(parse_partition_day, sources) if day is not None]
    if partitions:
        return Window(split, max(partitions))
    return None if newest is None else Window(split, _EPOCH + timedelta(days=newest // SECONDS_PER_DAY))


def select_files(split: DateSplit, sources: Sequence[InputFile]) -> list[InputFile]:
    """Selects the files that can contain days of the window.

    Raises:
        DataError: where there is none.
    """
    bounds = find_window(split, sources)
    if bounds is None:
        return list(sources)
    days = [parse_partition_day(source) for source in sources]
    kept = [
        source for source, day in zip(sources, days, strict=True) if day is None or bounds.first <= day <= bounds.last
    ]
    if not kept:
        known = sorted(day for day in days if day)
        raise DataError(
            f"data.split: no directory of data.events is within its days, {bounds.first} to {bounds.last}; "
            f"found {known[0]} to {known[-1]}"
        )
    return kept
