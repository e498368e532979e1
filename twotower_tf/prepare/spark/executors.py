"""Runs DuckDB queries on the parts of tables at the executors, and writes Spark frames as new parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
from pyspark.sql import DataFrame, SparkSession

from twotower_tf.errors import DataError
from twotower_tf.prepare.spark import spark_tasks
from twotower_tf.prepare.spark.spark_tasks import Local, Part

_ROWS_PER_TASK = 50_000
_DRIVER_ROWS = 10_000  # a task would take longer to start


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
        directory = directory or self.work / self.new_name()
        starts = [*itertools.accumulate((part.rows for part in parts), initial=0)]
        queries = [
            (part, starts[index], sql if isinstance(sql, str) else sql(index), f"{directory}/part-{index:05d}.parquet")
            for index, part in enumerate(parts)
        ]
        local, rows = self.local, starts[-1]
        if rows <= _DRIVER_ROWS:
            return [spark_tasks.run_query(local, name, *query) for query in queries]
        tasks = min(len(parts), 1 + rows // _ROWS_PER_TASK)  # small parts share a task
        return self.spread(lambda query: spark_tasks.run_query(local, name, *query), queries, tasks)

    def spread(self, task: Callable[[Any], Any], arguments: Sequence[Any], most: int = 0) -> list[Any]:
        """Runs a task per argument, or `most` for all, at the executors; results are small.

        Raises:
            the first error of a task, in the order of the arguments.
        """

        def attempt(argument: Any) -> Any:
            try:
                return task(argument)
            except (duckdb.Error, DataError) as error:  # as it is, without Spark's frames
                return error

        context = self._session.sparkContext
        found: list[Any] = context.parallelize(arguments, most or max(1, len(arguments))).map(attempt).collect()
        for error in found:
            if isinstance(error, Exception):
                raise error
        return found
