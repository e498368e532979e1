"""Parses clients' times in the format of the log that a bundle was trained on.

A bundle keeps the format of its log; batch scoring, `recommend` and the Python API use it:

- A value with a time type (datetime, pandas' and NumPy's, Arrow's and DuckDB's) is that time; without a zone it is UTC.
- ISO 8601 text is that time, except where the log has a strptime format of its own (`data.timestamp_format`).
- Other texts and numbers are read in the log's format: a number in a log of epoch milliseconds is milliseconds,
  2026013109 in a log of YYYYMMDDHH is nine o'clock.
- A number in a log of epoch seconds, milli-, micro- or nanoseconds has to lie between 1973-03-03 and the year 5138 in
  that unit, or in the log's own time range: so a number in another format is an error and not a time in 1970.
- Where the format has no numbers (ISO 8601, a time type, or a bundle that does not keep the format) a number of that
  range is read in the unit that its size implies.
- 0 means missing, as in the tower's signature.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np

from twotower_tf import sql
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import timestamps
from twotower_tf.tables.values import as_text, is_missing, text_sql

_FIRST, _LAST = timestamps.LARGE // 1000, timestamps.LARGE - 1  # seconds; where the units' ranges do not overlap
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_VALUE = "v"


@dataclass(frozen=True)
class TimeParser:
    """Parser of times in the format of a log.

    Attributes:
        name: of the format, as in `timestamps.TimeFormat`; "" where it is not known.
        first: time of the log's first event, epoch seconds; None where it is not known.
        last: time of its last event.
    """

    name: str = ""
    first: int | None = None
    last: int | None = None

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> TimeParser:
        """Builds the parser for a bundle's manifest; a manifest of an earlier version may have no format."""
        kept = manifest.get("time")
        return cls(kept["form"], kept["first"], kept["last"]) if kept else cls()

    def document(self) -> dict[str, Any]:
        """Returns the entry `time` of a manifest, for `of_manifest`."""
        return {"form": self.name, "first": self.first, "last": self.last}

    @property
    def expected(self) -> str:
        """Describes the times that a client may send, for messages."""
        if self.name in timestamps.UNITS:
            first, last = self._range()
            unit = timestamps.UNITS[self.name]
            return f"{self.name} from {first * unit} to {(last + 1) * unit - 1}, or ISO 8601"
        if self.name in timestamps.COMPACT:
            return f"{self.name} or ISO 8601"
        if self._accepts_any_unit():
            return f"ISO 8601, or epoch seconds to nanoseconds, from {_FIRST} seconds on"
        return f"text in the format {self.name}"

    def seconds(self, expression: str, kind: str) -> str:
        """Returns SQL for epoch seconds (BIGINT) of an expression of DuckDB's type `kind`; NULL for an invalid time."""
        return timestamps.seconds_sql(timestamps.typed_micros(expression, kind) or self._of_text(expression, kind))

    def _of_text(self, expression: str, kind: str) -> str:
        text = f"trim({text_sql(expression, kind)})"
        if self.name in timestamps.UNITS:
            own = timestamps.epoch_micros(text, self.name, *self._range())
        elif self.name in timestamps.COMPACT:
            own = timestamps.compact_micros(text, self.name)
        elif self._accepts_any_unit():
            in_units = [timestamps.epoch_micros(text, name, _FIRST, _LAST) for name in timestamps.UNITS]
            own = f"coalesce({', '.join(in_units)})"
        else:
            return timestamps.strptime_micros(text, self.name)
        return f"coalesce({own}, {timestamps.iso_micros(text)}, CASE WHEN TRY_CAST({text} AS DOUBLE) = 0 THEN 0 END)"

    def _range(self) -> tuple[int, int]:
        """Returns the range of seconds in which a number is accepted in the log's unit."""
        first = _FIRST if self.first is None else min(_FIRST, self.first)
        return first, _LAST if self.last is None else max(_LAST, self.last)

    def _accepts_any_unit(self) -> bool:
        return self.name in ("", timestamps.ISO_NAME, timestamps.TYPED)

    def read(self, values: Sequence[Any]) -> list[int | None]:
        """Parses a client's values into epoch seconds, rounded down; 0 for a missing value, None for an invalid one."""
        found = [self._of_whole_number(value) if type(value) is int else _convert_typed(value) for value in values]
        rest = [place for place, value in enumerate(values) if found[place] is None and not is_missing(value)]
        if rest:
            texts = (_sql_text(as_text(values[place])) for place in rest)
            reading = f"EXECUTE reading([{', '.join(map(quote_literal, texts))}])"
            for place, row in zip(rest, _open_reader(self).execute(reading).fetchall(), strict=True):
                found[place] = row[0]
        read = set(rest)
        return [0 if each is None and place not in read else each for place, each in enumerate(found)]

    def _of_whole_number(self, value: int) -> int | None:
        """Converts a number in the log's own unit, as the SQL would: a query costs half as much as a tower."""
        unit = timestamps.UNITS.get(self.name)
        if unit is None or abs(value) >= 2**63:  # SQL's integers end there
            return None
        first, last = self._range()
        return value // unit if first * unit <= value < (last + 1) * unit else None


def _sql_text(text: str) -> str:
    """Returns a text that SQL may hold: it ends at a NUL, and has no halves of surrogate pairs."""
    return text.replace("\0", "?").encode(errors="replace").decode()


SIGNATURE = TimeParser(timestamps.SECONDS, timestamps.EARLIEST, timestamps.LATEST)  # of the towers' inputs


def _convert_typed(value: Any) -> int | None:
    """Converts a value with a time type to epoch seconds; None for other types, and outside the years 1 to 9999."""
    if is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        seconds = int(value.astype("datetime64[s]").astype(np.int64))
        return seconds if timestamps.EARLIEST <= seconds <= timestamps.LATEST else None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    moment = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    return int((moment - _EPOCH) // timedelta(seconds=1))


_THREAD = threading.local()
_READERS = 4  # connections of one thread


def _open_reader(parser: TimeParser) -> Connection:
    """Returns this thread's connection with the prepared statement `reading`: the seconds of a list of texts.

    Planning the SQL takes ten times as long as running it.
    """
    readers: dict[TimeParser, Connection] = _THREAD.__dict__.setdefault("readers", {})
    if parser not in readers:
        while len(readers) >= _READERS:  # a service gets new versions, with other ranges, for months
            readers.pop(next(iter(readers))).close()
        readers[parser] = sql.connect(threads=1)
        rows = f"SELECT unnest($1::VARCHAR[]) AS {_VALUE}"
        readers[parser].execute(f"PREPARE reading AS SELECT {parser.seconds(_VALUE, 'VARCHAR')} FROM ({rows})")
    return readers[parser]
