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
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
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


class Answer(NamedTuple):
    """The rows of a small result."""

    rows: list[tuple[Any, ...]]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns all rows."""
        return self.rows


class SparkConnection(Cluster):
    """A connection to Spark with the interface of a DuckDB connection."""

    def __init__(self, session: SparkSession, executors: Executors, shadow: Connection) -> None:
        self._session = session
        self._executors = executors
        self._shadow = shadow  # has the same tables, without rows
        self._parts: dict[str, list[Part]] = {}
        self._views: set[str] = set()  # tables that Spark knows
        self._files: dict[str, str] = {}  # views by pattern

    # --- interface of DuckDB's connection ---------------------------------------------------------------------------

    def execute(self, sql: str) -> Answer:
        """Runs statements; the answer is the last one's."""
        rows: list[tuple[Any, ...]] = []
        for statement in self._shadow.extract_statements(sql):
            try:
                rows = self._execute(statement.query.rstrip("; \n"))
            except SqlglotError:
                raise duckdb.NotSupportedError("DuckDB knows this SQL, the Spark engine's parser does not") from None
        return Answer(rows)

    def sql(self, query: str) -> Any:
        """Runs a query whose result may be large; returns it in order, as DuckDB's relation of the executors' files."""
        parts, select = self._sort(query)
        # a cursor: the steps execute more while they read
        return self._shadow.cursor().sql(f"SELECT {select} FROM {_scan(parts)}")

    def _execute(self, statement: str) -> list[tuple[Any, ...]]:
        if statement.lower().startswith("describe"):
            return self._fetch_shadow(statement)
        found = re.match(r"(?is)\s*CREATE\s+(TABLE|VIEW)\s+(\w+)\s+AS\s+(.*)", statement)
        if not found:
            self._types(statement)  # where DuckDB cannot run it, it says why
            return self._fetch(statement)
        kind, name, query = found.groups()
        self._shadow.execute(f"CREATE {kind} {name} AS {query}{' WITH NO DATA' if kind == 'TABLE' else ''}")
        tree = transpile.parse(query)
        if table := transpile.find_base_table(tree):
            types = self._types(name)
            columns = (each if types[each] in _PLAIN else f"CAST({each} AS VARCHAR) AS {each}" for each in types)
            query = f"SELECT {', '.join(columns)} FROM ({query})" if {*types.values()} - _PLAIN else query
            self._parts[name] = self._executors.query(table, self._parts[table], query)
        else:
            self._parts[name] = self._executors.write(self._build_frame(tree))
        return []

    def _types(self, relation: str) -> dict[str, str]:
        """Returns DuckDB's types of a table's or query's columns, by quoted name."""
        described = self._fetch_shadow(f"DESCRIBE {relation}")
        return {quote_identifier(column): kind for column, kind, *_ in described}

    def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a small result; of one table, they are sorted by columns of the result."""
        tree = transpile.parse(query)
        table, combiners = transpile.find_combiners(tree)
        if table:
            rows = self._read(self._executors.query(table, self._parts[table], query))
            present = [[value for value in column if value is not None] for column in zip(*rows, strict=True)]
            combined = zip(combiners, present, strict=True)
            return [tuple(combine(values) if values else None for combine, values in combined)]
        table = transpile.find_base_table(tree, ordered=True)
        if not table:
            return [tuple(row) for row in self._build_frame(tree).collect()]
        parts = self._executors.query(table, self._parts[table], query)
        return self._read(parts, " ".join(transpile.write_clause(tree, name) for name in ("order", "limit")))

    def _read(self, parts: Sequence[Part], clauses: str = "") -> list[tuple[Any, ...]]:
        return self._fetch_shadow(f"SELECT * FROM {_scan(parts)} {clauses}")

    def _fetch_shadow(self, sql: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._shadow.execute(sql).fetchall()
        return rows

    # --- Spark's SQL -------------------------------------------------------------------------------------------------

    def _build_frame(self, tree: exp.Expression) -> DataFrame:
        """Returns a query as a Spark frame.

        Raises:
            NotImplementedError: for an input table, whose types are not Spark's, other than row by row.
        """
        for name in {table.name for table in tree.find_all(exp.Table)} & self._parts.keys() - self._views:
            if any(part.select for part in self._parts[name]):
                raise NotImplementedError(f"a join of the input table {name}: join its view of typed values")
            self._read_files(part.path for part in self._parts[name]).createOrReplaceTempView(name)
            self._views.add(name)
        return self._session.sql(transpile.write_spark_sql(tree, self._view_files))

    def _read_files(self, paths: Iterable[str]) -> DataFrame:
        escaped = [re.sub(r"[\\*?\[\]{}]", r"\\\g<0>", path) for path in paths]  # Spark reads Hadoop's patterns
        return self._session.read.parquet(*escaped)

    def _view_files(self, pattern: str) -> str:
        """Returns the name of a view of Parquet files with DuckDB's `file_row_number`."""
        if pattern not in self._files:
            self._files[pattern] = self._executors.new_name()
            frame = self._read_files(sorted(glob.glob(pattern)))
            numbered = frame.selectExpr("*", "_metadata.row_index AS file_row_number")
            numbered.createOrReplaceTempView(self._files[pattern])
        return self._files[pattern]

    # --- interface of a cluster --------------------------------------------------------------------------------------

    def compute_ranges(self, query: RangeQuery) -> str:
        """Computes a query on sorted ranges of rows; returns the name of the table of the result."""
        name = self._executors.new_name()
        self._shadow.execute(
            f"CREATE TABLE {name} AS WITH sorted AS ({query.rows}), earlier AS ({query.summary}) {query.result} "
            "WITH NO DATA"
        )
        parts = self._executors.write(
            self._build_frame(transpile.parse(f"SELECT * FROM ({query.rows}) ORDER BY {query.order}"))
        )
        summaries = self._executors.query(
            "sorted", parts, lambda index: f"SELECT *, {index} AS range FROM ({query.summary})"
        )
        together = self._executors.work / f"{name}_summaries.parquet"
        parquet_parts.write_table(self._shadow, f"SELECT * FROM {_scan(summaries)}", together)
        earlier = f"SELECT * EXCLUDE (range) FROM read_parquet({quote_literal(str(together))}) WHERE range <"
        self._parts[name] = self._executors.query(
            "sorted", parts, lambda index: f"WITH earlier AS ({earlier} {index}) {query.result}"
        )
        _remove_files(parts)
        return name

    def write_parts(self, query: str, directory: Path) -> None:
        """Writes `part-NNNNN.parquet` files of a query's result in order, by the executors."""
        directory.mkdir(parents=True)
        parts, select = self._sort(query)
        self._executors.query("result", parts, f"SELECT {select} FROM result", directory)
        _remove_files(parts)

    def _sort(self, query: str) -> tuple[list[Part], str]:
        """Returns a query's result in order, and the SQL list that gives its columns DuckDB's names and types."""
        types = self._types(query)
        frame = self._build_frame(transpile.parse(query)).toDF(*[f"o{index}" for index in range(len(types))])
        select = [f"CAST(o{index} AS {kind}) AS {name}" for index, (name, kind) in enumerate(types.items())]
        return self._executors.write(frame), ", ".join(select)

    def read_table(self, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
        """Reads input files, one task each, with the readers of the DuckDB engine."""
        local, directory = self._executors.local, self._executors.work / f"{name}_input"
        absolute = enumerate(replace(source, path=source.path.absolute()) for source in sources)
        found: list[spark_reading.FileRows] = self._executors.spread(
            lambda pair: spark_reading.read_file(local, pair[1], wanted, directory / f"{pair[0]:05d}"), list(absolute)
        )
        table, self._parts[name] = spark_reading.merge_files(name, found, wanted, self._shadow)
        scans.create_table(self._shadow, name, table.columns)
        return table


def _scan(parts: Sequence[Part]) -> str:
    return f"read_parquet([{', '.join(quote_literal(part.path) for part in parts)}])"


def _remove_files(parts: Sequence[Part]) -> None:
    for part in parts:
        Path(part.path).unlink()
