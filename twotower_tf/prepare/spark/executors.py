"""Runs DuckDB queries on the parts of tables at the executors, and writes Spark frames as new parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from twotower_tf.prepare.spark import spark_tasks
from twotower_tf.prepare.spark.spark_tasks import Local, Part

_ROWS_PER_TASK = 50_000
_DRIVER_ROWS = 10_000


class Executors:
    """Runs queries on parts at the executors, and writes parts below a work directory.

    Attributes:
        work: the work directory, on storage that every executor reaches.
        local: work directory and memory limit of an executor's DuckDB.
    """

    def __init__(self, session: SparkSession, work: Path, memory_limit: str) -> None:
        self._session = session
        self.work = work.absolute()  # executors may run in another directory
        self.local = Local(str(self.work), memory_limit)
        self._numbers = itertools.count()

    def __enter__(self) -> Executors:
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the DuckDB of the driver's own tasks."""
        spark_tasks.close_engine(self.local)

    def new_name(self) -> str:
        """Returns an unused name of a table."""
        return f"made_{next(self._numbers)}"

    def write(self, frame: DataFrame) -> list[Part]:
        """Writes a result in Spark's own order of partitions; returns the parts with rows, at least one."""
        directory = self.work / self.new_name()
        frame.write.parquet(str(directory))
        parts = spark_tasks.list_parts(directory)
        return [part for part in parts if part.rows] or parts[:1]

    def query(
        self, name: str, parts: Sequence[Part], sql: str | Callable[[int], str], directory: Path | None = None
    ) -> list[Part]:
        """Runs DuckDB's SQL on every part of a table; the results are parts in the same order.

        Args:
            name: of the table in `sql`.
            parts: of the table.
            sql: of all parts, or of each by its number.
            directory: for the results; None takes a new one.
        """
        directory = self.work / self.new_name() if directory is None else directory
        starts = itertools.accumulate((part.rows for part in parts), initial=0)
        queries = []
        for index, (part, start) in enumerate(zip(parts, starts, strict=False)):
            text = sql if isinstance(sql, str) else sql(index)
            queries.append((name, part, start, text, str(directory / f"part-{index:05d}.parquet")))
        local, rows = self.local, sum(part.rows for part in parts)
        if rows <= _DRIVER_ROWS:  # a task would take longer to start
            return _raised([spark_tasks.run_query(local, *query) for query in queries])
        share = 1 + rows // _ROWS_PER_TASK  # small parts share a task
        return self.spread(lambda query: spark_tasks.run_query(local, *query), queries, min(len(parts), share))

    def spread(self, task: Callable[[Any], Any], arguments: Sequence[Any], most: int = 0) -> list[Any]:
        """Runs a task per argument, or `most` for all, at the executors; results are small.

        Raises:
            the first error that a task returned, in the order of the arguments.
        """
        context = self._session.sparkContext
        return _raised(context.parallelize(arguments, most or max(1, len(arguments))).map(task).collect())


def _raised(found: list[Any]) -> list[Any]:
    """Returns the results of tasks; raises the first error."""
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found
