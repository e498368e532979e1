"""Declares what the steps of a preparation need of a cluster, in addition to running SQL."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted


@dataclass(frozen=True)
class RangeQuery:
    """A query whose rows depend on rows before them, computed on sorted ranges of rows (`prepare.ordered_rows`).

    Attributes:
        rows: SQL of the rows.
        order: SQL of their order; rows that are equal in it are in one range.
        summary: SQL over the rows of a range, the table `sorted`; its result has few rows.
        result: SQL over `sorted` and `earlier`, the summaries of all ranges before it.
    """

    rows: str
    order: str
    summary: str
    result: str


class Cluster(abc.ABC):
    """Interface of a cluster that the steps use like a DuckDB connection; its workers write large results to files."""

    @abc.abstractmethod
    def sql(self, query: str) -> Any:
        """Runs a query whose result may be large; returns DuckDB's relation of the result, in order."""

    @abc.abstractmethod
    def read_table(self, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
        """Reads a table as `readers.read_table` does, file by file."""

    @abc.abstractmethod
    def compute_ranges(self, query: RangeQuery) -> str:
        """Computes a query range by range; returns the name of the table of the result."""

    @abc.abstractmethod
    def write_parts(self, query: str, directory: Path) -> None:
        """Writes a query's result as `part-NNNNN.parquet` files in order, at least one."""
