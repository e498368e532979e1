"""Describes an input table in DuckDB: its columns, its files, and their malformed records."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twotower_tf.tables.csv_records import MalformedRecord
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.values import text_sql

Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Column:
    """A column in DuckDB: its identifier and type there."""

    identifier: str
    kind: str


@dataclass
class Table:
    """An input table in DuckDB; `rowid` is the row's place, from 0.

    Attributes:
        name: of the DuckDB table; besides the columns it has `source`, the position of the row's file in `sources`.
        sources: the files.
        columns: those that were read, by their name in the files.
        known: every column name of the files.
        malformed: records set aside.
        lacking: columns missing from some files, each with the first such file.
        starts: place of each file's first row, and the number of rows at the end.
        unnamed: files with columns without a name, which are read over.
    """

    name: str
    sources: Sequence[InputFile]
    columns: dict[str, Column]
    known: list[str]
    malformed: list[MalformedRecord] = field(default_factory=list)
    lacking: dict[str, InputFile] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    unnamed: list[InputFile] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def rename(self, name: str, other: str) -> None:
        """Renames a column, in the place of the one that has the other name."""
        self.columns[other] = self.columns.pop(name)
        self.lacking.pop(other, None)
        if name in self.lacking:
            self.lacking[other] = self.lacking.pop(name)
        self.known = [other if each == name else each for each in self.known if each != other]

    def rename_key(self, key: str, name: str) -> None:
        """Gives the column of ids of a side table the name that the events use; a table without it is left as it is."""
        if key and key != name and key in self.known:
            self.rename(key, name)

    def text(self, name: str, alias: str = "") -> str:
        """Returns SQL for a column's canonical text; NULL for a missing value."""
        column = self.columns[name]
        return text_sql(f"{alias}.{column.identifier}" if alias else column.identifier, column.kind)

    def locate(self, place: int) -> tuple[int, int]:
        """Returns the position of a row's file in `sources`, and the row's among the file's good records, from 0."""
        index = bisect.bisect_right(self.starts, place, hi=len(self.sources)) - 1
        return index, place - self.starts[index]
