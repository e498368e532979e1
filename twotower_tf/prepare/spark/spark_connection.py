"""Runs the preparation's steps on Spark, with the interface of a DuckDB connection.

- A query that is evaluated row by row on one table runs in DuckDB, at the executors, part by part. Sums and counts over
  such rows are computed part by part and combined.
- Running sums and as-of joins run in DuckDB on sorted ranges of the rows (`ordered_rows`).
- Everything else (joins, groups, sorting) is converted to Spark's SQL.

Tables are directories of Parquet parts on storage that the driver and every executor reach. The driver sees aggregates,
bad rows and streams of files, never a table. A DuckDB in the driver has the same tables without rows: it checks each
statement and provides the types.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from sqlglot import exp
from sqlglot.errors import SqlglotError

from twotower_tf.prepare.spark import spark_reading, transpile
from twotower_tf.prepare.spark.executors import Executors
from twotower_tf.prepare.spark.spark_tasks import Part
from twotower_tf.sql import Connection, quote_identifier, quote_literal
from twotower_tf.tables import parquet_parts
from twotower_tf.tables.cluster import Cluster, RangeQuery
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted
from twotower_tf.tables.readers import scans

# types that mean the same to both engines; values of others pass through Spark as text
_PLAIN = frozenset({"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR"})


@dataclass(frozen=True)
class Answer:
    """The rows of a small result."""

    rows: list[tuple[Any, ...]]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns all rows."""
        return self.rows


@dataclass(frozen=True)
class Relation:
    """A lazy query whose result may be large."""

    connection: SparkConnection
    query: str

    def to_arrow_reader(self, rows: int) -> pa.RecordBatchReader:
        """Returns the result in order, streamed from the files that the executors write."""
        return self.connection.stream(self.query, rows)

    def to_arrow_table(self) -> pa.Table:
        """Returns the result's schema, as a table without rows: of any size only streams are read."""
        return self.connection.shadow.sql(f"SELECT * FROM ({self.query}) LIMIT 0").to_arrow_table()


class SparkConnection(Cluster):
    """A connection to Spark with the interface of a DuckDB connection.

    Attributes:
        shadow: a DuckDB with the same tables, without rows.
    """

    def __init__(self, session: SparkSession, executors: Executors, shadow: Connection) -> None:
        self._session = session
        self._executors = executors
        self._work = executors.work
        self.shadow = shadow
        self._parts: dict[str, list[Part]] = {}
        self._views: set[str] = set()  # tables that Spark knows
        self._files: dict[tuple[str, bool], str] = {}

    # --- interface of DuckDB's connection ---------------------------------------------------------------------------

    def execute(self, sql: str) -> Answer:
        """Runs statements; the answer is the last one's."""
        answer = Answer([])
        try:
            for statement in transpile.split_statements(sql):
                answer = Answer(self._execute(statement))
        except SqlglotError:
            self.shadow.execute(f"EXPLAIN {sql}")  # where DuckDB cannot read it either, it says why
            raise duckdb.NotSupportedError("DuckDB knows this SQL, the Spark engine's parser does not") from None
        return answer

    def sql(self, query: str) -> Relation:
        """Returns a query whose result may be large."""
        return Relation(self, query)

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        kind, name, query = transpile.split_create(statement)
        tree = transpile.parse(query)
        if not kind:
            self.shadow.execute(f"DESCRIBE {query}")
            return self._fetch(tree, query)
        self.shadow.execute(f"CREATE {kind} {name} AS {query}{' WITH NO DATA' if kind == 'TABLE' else ''}")
        if table := transpile.find_base_table(tree):
            types = self._types(name)
            columns = (each if types[each] in _PLAIN else f"CAST({each} AS VARCHAR) AS {each}" for each in types)
            query = f"SELECT {', '.join(columns)} FROM ({query})" if {*types.values()} - _PLAIN else query
            self._parts[name] = self._executors.query(table, self._parts[table], query)
        else:
            self._parts[name] = self._executors.write(self._frame(tree))
        return []

    def _types(self, relation: str) -> dict[str, str]:
        """Returns DuckDB's types of a table's or query's columns, by quoted name."""
        described = self.shadow.execute(f"DESCRIBE {relation}").fetchall()
        return {quote_identifier(column): kind for column, kind, *_ in described}

    def _fetch(self, tree: exp.Expression, query: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a small result; of one table, they are sorted by columns of the result."""
        table, combiners = transpile.find_combiners(tree)
        if table:
            rows = self._read(self._executors.query(table, self._parts[table], query))
            present = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
            combined = zip(combiners, present, strict=True)
            return [tuple(combine(values) if values else None for combine, values in combined)]
        table = transpile.find_base_table(tree, ordered=True)
        if not table:
            return [tuple(row) for row in self._frame(tree).collect()]
        parts = self._executors.query(table, self._parts[table], query)
        return self._read(parts, f"{transpile.clause(tree, 'order')} {transpile.clause(tree, 'limit')}")

    def _read(self, parts: Sequence[Part], clauses: str = "") -> list[tuple[Any, ...]]:
        return self.shadow.execute(f"SELECT * FROM {_scan(parts)} {clauses}").fetchall()

    # --- Spark's SQL -------------------------------------------------------------------------------------------------

    def _frame(self, tree: exp.Expression) -> DataFrame:
        """Returns a query as a Spark frame.

        Raises:
            NotImplementedError: for an input table, whose types are not Spark's, other than row by row.
        """
        for name in transpile.list_tables(tree) & self._parts.keys() - self._views:
            if any(part.select for part in self._parts[name]):
                raise NotImplementedError(f"a join of the input table {name}: join its view of typed values")
            self._add_view(name, [part.path for part in self._parts[name]])
        return self._session.sql(transpile.write_spark_sql(tree, self._view_files))

    def _add_view(self, name: str, paths: Iterable[str], *selected: str) -> None:
        frame = self._session.read.parquet(*map(_as_path, paths))
        (frame.selectExpr(*selected) if selected else frame).createOrReplaceTempView(name)
        self._views.add(name)

    def _view_files(self, pattern: str, numbered: bool) -> str:
        """Returns the name of a view of Parquet files."""
        key = (pattern, numbered)
        if key not in self._files:
            self._files[key] = self._executors.new_name()
            number = ["*", "_metadata.row_index AS file_row_number"] if numbered else []
            self._add_view(self._files[key], sorted(glob.glob(pattern)), *number)
        return self._files[key]

    # --- interface of a cluster --------------------------------------------------------------------------------------

    def compute_ranges(self, query: RangeQuery) -> str:
        """Computes a query on sorted ranges of rows; returns the name of the table of the result."""
        name = self._executors.new_name()
        self.shadow.execute(
            f"CREATE TABLE {name} AS WITH sorted AS ({query.rows}), earlier AS ({query.summary}) {query.result} "
            "WITH NO DATA"
        )
        parts = self._executors.write(
            self._frame(transpile.parse(f"SELECT * FROM ({query.rows}) ORDER BY {query.order}"))
        )
        summaries = self._executors.query(
            "sorted", parts, lambda index: f"SELECT *, {index} AS range FROM ({query.summary})"
        )
        together = self._work / f"{name}_summaries.parquet"
        parquet_parts.write_table(self.shadow, f"SELECT * FROM {_scan(summaries)}", together)
        earlier = f"SELECT * EXCLUDE (range) FROM read_parquet({quote_literal(str(together))}) WHERE range <"
        self._parts[name] = self._executors.query(
            "sorted", parts, lambda index: f"WITH earlier AS ({earlier} {index}) {query.result}"
        )
        for part in parts:
            Path(part.path).unlink()
        return name

    def stream(self, query: str, rows: int) -> pa.RecordBatchReader:
        """Returns a query's result in order, from the executors' files; they go with the work directory."""
        parts, select = self._sort(query)
        # a cursor: the steps execute more while they read
        return self.shadow.cursor().sql(f"SELECT {select} FROM {_scan(parts)}").to_arrow_reader(rows)

    def write_parts(self, query: str, directory: Path) -> int:
        """Writes `part-NNNNN.parquet` files of a query's result in order, by the executors."""
        directory.mkdir(parents=True)
        parts, select = self._sort(query)
        self._executors.query("result", parts, f"SELECT {select} FROM result", directory)
        for part in parts:
            Path(part.path).unlink()
        return sum(part.rows for part in parts)

    def _sort(self, query: str) -> tuple[list[Part], str]:
        """Returns a query's result in order, and the SQL list that gives its columns DuckDB's names and types."""
        types = self._types(query)
        frame = self._frame(transpile.parse(query)).toDF(*[f"o{index}" for index in range(len(types))])
        select = [f"CAST(o{index} AS {kind}) AS {name}" for index, (name, kind) in enumerate(types.items())]
        return self._executors.write(frame), ", ".join(select)

    def read_table(self, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
        """Reads input files, one task each, with the readers of the DuckDB engine."""
        local, directory = self._executors.local, self._work / f"{name}_input"
        absolute = enumerate(replace(source, path=source.path.absolute()) for source in sources)
        found: list[spark_reading.FileRows] = self._executors.spread(
            lambda pair: spark_reading.read_file(local, pair[1], wanted, directory / f"{pair[0]:05d}"), list(absolute)
        )
        table, self._parts[name] = spark_reading.merge_files(name, found, wanted, self.shadow)
        scans.create_table(self.shadow, name, table.columns)
        return table


def _scan(parts: Sequence[Part]) -> str:
    return f"read_parquet([{', '.join(quote_literal(part.path) for part in parts)}])"


def _as_path(path: str) -> str:
    """Returns a path for Spark, which reads paths as Hadoop's patterns."""
    return re.sub(r"[\\*?\[\]{}]", r"\\\g<0>", path)
