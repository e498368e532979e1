"""What runs a preparation's SQL: DuckDB within its memory and directory, or a cluster that is asked alike."""

from __future__ import annotations

import abc
import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from twotower_tf import resources, sql
from twotower_tf.errors import ConfigError

if TYPE_CHECKING:
    from twotower_tf.tables.input_files import InputFile
    from twotower_tf.tables.input_table import Table

# DuckDB's part of the memory limit: parts on their way to files, Python and the allocators' slack need the rest
_SHARE = 0.5

Connection = duckdb.DuckDBPyConnection
RESOURCE_ERRORS = (duckdb.OutOfMemoryException, duckdb.InterruptException)  # errors that no input is the reason of


class Cluster(abc.ABC):
    """Stands for a DuckDB connection in the steps; what is large goes through files that its workers write."""

    @abc.abstractmethod
    def read_table(self, name: str, sources: Sequence[InputFile], wanted: Callable[[str], bool]) -> Table:
        """Does what `readers.read_table` does, file by file."""

    @abc.abstractmethod
    def write_parts(self, query: str, directory: Path) -> int:
        """Writes a query's result as `part-NNNNN.parquet` files in order (at least one); returns its rows."""


@contextlib.contextmanager
def open_engine(
    work: Path,
    memory_limit: str,
    threads: int,
    text_bytes: int = 0,
    *,
    directories: Iterable[Path] = (),
    ordered: bool = True,
) -> Iterator[Connection]:
    """Opens a DuckDB whose tables are in memory, or in a file where they would not fit.

    Tables in memory are written at half the processor time. Those in a file are compressed, to about a fifth, where
    what memory spills is not: a disk is then the slower of the two.

    Args:
        work: a new directory for what is not in memory, removed afterwards.
        memory_limit: of the whole process, near enough, e.g. "4GB"; at most what the machine or container has.
        threads: of DuckDB; 0 takes one per CPU.
        text_bytes: of the input, as text; more than DuckDB's part of the limit goes to a file.
        directories: below which it reads and writes files, besides `work`; no other file is reached.
        ordered: whether rows keep their order, and a row's place is its `rowid`.

    Raises:
        ConfigError: for a `memory_limit` that is no size.
    """
    share = int(min(parse_size(memory_limit), resources.total_memory()) * _SHARE)
    work.mkdir()
    try:
        with sql.connect(
            work / "tables.duckdb" if text_bytes > share else ":memory:",
            [work, *directories],
            memory_limit=f"{share}B",
            temp_directory=work / "spill",
            preserve_insertion_order=ordered,
            enable_progress_bar=False,
            threads=threads or resources.count_cpus(),
        ) as connection:
            yield connection
    finally:
        shutil.rmtree(work, ignore_errors=True)


def parse_size(text: str) -> int:
    """Bytes of a size such as 4GB, 500MB or 2GiB.

    Raises:
        ConfigError: where it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b\s*", text.lower())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"--memory_limit: {text!r} is no size; write it as 4GB or 500MB")
    unit = found[2] or ""
    return int(float(found[1]) * (1024 if unit.endswith("i") else 1000) ** " kmgt".index(unit[:1] or " "))


def fetch_row(connection: Connection, query: str) -> tuple[Any, ...]:
    """The only row of a query's result."""
    (row,) = connection.execute(query).fetchall()
    return tuple(row)


def drop_table(connection: Connection, table: str) -> None:
    """Frees a table that no later step reads; a cluster's are files, removed at the end."""
    if not isinstance(connection, Cluster):
        connection.execute(f"DROP TABLE {table}")


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message: what is wrong, without the excerpt of our SQL."""
    return str(error).splitlines()[0]
