"""Opens the engine that runs a preparation's SQL: DuckDB within a memory limit."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb

from twotower_tf import resources, sql
from twotower_tf.errors import ConfigError
from twotower_tf.sql import Connection
from twotower_tf.tables.cluster import Cluster

# DuckDB's share of the memory limit: buffers of file parts, Python and allocator slack need the rest
_SHARE = 0.5

RESOURCE_ERRORS = (duckdb.OutOfMemoryException, duckdb.InterruptException)  # not caused by the input


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

    Tables in memory take half the processor time to write. Tables in a file are compressed, to about a fifth; spilled
    memory is not, so that a disk would be slower.

    Args:
        work: a new directory for the database file and spilled memory, removed afterwards.
        memory_limit: of the whole process, approximately, e.g. "4GB"; at most the memory of the machine or container.
        threads: of DuckDB; 0 takes one per CPU.
        text_bytes: of the input, as text; tables larger than DuckDB's share of the limit go to a file.
        directories: below which it reads and writes files, in addition to `work`; it has access to no other file.
        ordered: whether rows keep their order, and a row's place is its `rowid`.

    Raises:
        ConfigError: for an invalid `memory_limit`.
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
    """Parses a size such as 4GB, 500MB or 2GiB into bytes.

    Raises:
        ConfigError: for an invalid size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b\s*", text.lower())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"--memory_limit: invalid size {text!r} (expected e.g. 4GB or 500MB)")
    unit = found[2] or ""
    return int(float(found[1]) * (1024 if unit.endswith("i") else 1000) ** " kmgt".index(unit[:1] or " "))


def fetch_row(connection: Connection, query: str) -> tuple[Any, ...]:
    """Returns the only row of a query's result."""
    (row,) = connection.execute(query).fetchall()
    return tuple(row)


def find_work_directory(connection: Connection) -> Path:
    """Returns the directory for files that last as long as this DuckDB."""
    ((directory,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    return Path(directory).parent / "work"


def drop_table(connection: Connection, table: str) -> None:
    """Drops a table that no later step reads; the tables of a cluster are files, removed at the end."""
    if not isinstance(connection, Cluster):
        connection.execute(f"DROP TABLE {table}")


def first_line(error: Exception) -> str:
    """Returns the first line of DuckDB's message, without the excerpt of the SQL."""
    return str(error).splitlines()[0]
