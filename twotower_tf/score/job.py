"""The job of the workers, and the result that they keep of a unit. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twotower_tf.score import unit_reader
from twotower_tf.score.answer_stats import AnswerStats
from twotower_tf.score.answer_tables import Format
from twotower_tf.score.unit_reader import Bad, Rows
from twotower_tf.score.units import Unit
from twotower_tf.score.user_columns import Column
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.time_parser import TimeParser

ALLOWED, EXCLUDED, USERS = "allowed.npy", "excluded", "users"  # in the journal's directory, while it is needed
SEEN = "seen_rows"  # column of lists of index rows, in tables that are built from a log


@dataclass(frozen=True)
class Job:
    """Parameters of a scoring that every worker needs.

    `k` of 0 gives vectors. `at` has epoch seconds for time features without a column; with `seen` the files list seen
    items. `memory_limit`, e.g. "500MB", is that of a reader that is not streaming. `renamed` has names under which
    columns of the files are read, by their own.
    """

    export_dir: str
    version: int
    output: str
    journal: str
    sources: tuple[InputFile, ...]
    user_id: str
    renamed: Mapping[str, str]
    columns: tuple[Column, ...]
    times: TimeParser
    at: Mapping[str, int]
    k: int
    format: Format
    names: bool
    seen: bool
    memory_limit: str
    threads: int
    wanted: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [self.user_id, *(each.name for each in self.columns), *([SEEN] if self.seen else [])]
        object.__setattr__(self, "wanted", tuple(dict.fromkeys(names)))

    def without_sources(self) -> Job:
        """Returns the job for a call that carries its own source: a job may have many files, and calls are pickled."""
        return replace(self, sources=())

    def name_unit(self, unit: Unit) -> str:
        """Names a unit in messages."""
        name = self.sources[unit.file].name
        return name if unit.whole else f"{name}, rows {unit.first + 1:,} to {unit.first + unit.rows:,}"

    def open(self, source: InputFile, unit: Unit, rows: int) -> Any:
        """Opens a unit of a file for reading, `rows` at a time."""
        return unit_reader.open_unit(
            source, unit, self.wanted, rows, Path(self.journal), self.memory_limit, self.renamed
        )


def make_note(
    unit: Unit, part: str, stats: AnswerStats, rows: Rows, bad: Sequence[Bad], source: InputFile
) -> dict[str, Any]:
    """Returns what the journal keeps of a finished unit."""
    return {"unit": unit.number, "file": source.name, "part": part, **stats.note(), "quarantined": rows.entries(bad)}
