"""Runs DuckDB queries on the parts of tables at the executors, and writes Spark frames as new parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from twotower_tf.prepare.spark import spark_tasks
from twotower_tf.prepare.spark.spark_tasks import Failure, Local, Part, Query

_ROWS_PER_TASK = 50_000
_DRIVER_ROWS = 10_000
MADE = "made_"  # names of tables that DuckDB would not have


class Executors:
    """Runs queries on parts at the executors, and writes parts below a work directory.

    Attributes:
        local: work directory and memory limit of an executor's DuckDB.
    """

    def __init__(self, session: SparkSession, work: Path, memory_limit: str) -> None:
        self._session = session
        self._work = work
        self.local = Local(str(work), memory_limit)
        self._numbers = itertools.count()

    def close(self) -> None:
        """Closes the DuckDB of the driver's own tasks."""
        spark_tasks.close_engine(self.local)

    def new_name(self) -> str:
        """Returns an unused name of a table."""
        return f"{MADE}{next(self._numbers)}"

    def write(self, frame: DataFrame) -> list[Part]:
        """Writes a result in Spark's own order of partitions."""
        directory = self._work / self.new_name()
        frame.write.parquet(str(directory))
        return [Part(str(path), pq.read_metadata(path).num_rows) for path in sorted(directory.glob("part-*.parquet"))]

    def answer(
        self,
        name: str,
        parts: Sequence[Part],
        sql: str | Callable[[int], str],
        directory: Path | None = None,
        numbered: bool = False,
    ) -> list[Part]:
        """Runs DuckDB's SQL on every part of a table; the results are parts in the same order.

        Args:
            name: of the table in `sql`.
            parts: of the table.
            sql: of all parts, or of each by its number.
            directory: for the results; None takes a new one.
            numbered: whether the table shows its `rowid` whatever `sql` says.
        """
        directory = self._work / self.new_name() if directory is None else directory
        starts = itertools.accumulate((part.rows for part in parts), initial=0)
        queries = []
        for index, (part, start) in enumerate(zip(parts, starts, strict=False)):
            text = sql if isinstance(sql, str) else sql(index)
            output = str(directory / f"part-{index:05d}.parquet")
            queries.append(Query(name, part, start, text, numbered or "rowid" in text.lower(), output))
        local, rows = self.local, sum(part.rows for part in parts)
        if rows <= _DRIVER_ROWS:  # a task would take longer to start
            found = _raised([spark_tasks.run_query(local, query) for query in queries])
        else:
            share = 1 + rows // _ROWS_PER_TASK  # small parts share a task
            found = self.spread(lambda query: spark_tasks.run_query(local, query), queries, min(len(parts), share))
        return [Part(query.output, rows) for query, rows in zip(queries, found, strict=True)]

    def spread(self, task: Callable[[Any], Any], arguments: Sequence[Any], most: int = 0) -> list[Any]:
        """Runs a task per argument, or `most` for all, at the executors; results are small.

        Raises:
            the first failure, in the order of the arguments.
        """
        context = self._session.sparkContext
        return _raised(context.parallelize(arguments, most or max(1, len(arguments))).map(task).collect())


def remove_parts(parts: Sequence[Part]) -> None:
    """Deletes parts."""
    for part in parts:
        Path(part.path).unlink(missing_ok=True)


def _raised(found: list[Any]) -> list[Any]:
    """Returns the results of tasks; raises the first failure."""
    for each in found:
        if isinstance(each, Failure):
            raise each.error()
    return found
