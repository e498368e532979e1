"""Runs the preparation's steps on Spark, with the interface of a DuckDB connection.

A step's SQL is run in one of three ways:

- A query that is evaluated row by row on one table runs in DuckDB, at the executors, part by part (`spark_tasks`). Sums
  and counts over such rows are computed part by part and combined.
- Numbering and running counts, over all rows or per key, run in DuckDB on sorted ranges of the rows; the totals of
  other ranges are added (`windows`).
- Everything else (joins, groups, sorting, other windows) is converted to Spark's SQL (`transpile`).

Tables are directories of Parquet parts on storage that the driver and every executor reach. The driver sees aggregates,
bad rows and streams of files, never a table. A DuckDB in the driver has the same tables without rows: it checks each
statement and provides the types.
"""

from __future__ import annotations

import glob
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from sqlglot import exp
from sqlglot.errors import SqlglotError

from twotower_tf.prepare.spark import as_of_joins, merge_tables, query_plan, spark_tasks, transpile, windows
from twotower_tf.prepare.spark.executors import MADE, Executors, remove_parts
from twotower_tf.prepare.spark.spark_tasks import Failure, Part
from twotower_tf.sql import quote_identifier, quote_literal
from twotower_tf.tables import duckdb_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted


class Answer:
    """The rows of a small result."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows."""
        return self._rows


class Relation:
    """A lazy query."""

    def __init__(self, connection: SparkConnection, query: str) -> None:
        self._connection, self._query = connection, query

    def to_arrow_reader(self, rows: int) -> pa.RecordBatchReader:
        """The result in order, streamed from the files that the executors write."""
        return self._connection.stream(self._query, rows)

    def to_arrow_table(self) -> pa.Table:
        """The result's schema, as a table without rows: of any size only streams are read."""
        return self._connection.schema(self._query).empty_table()


@contextmanager
def open_spark(
    session: SparkSession, work: Path, memory_limit: str, directories: Iterable[Path]
) -> Iterator[SparkConnection]:
    """Opens the Spark engine in a session; its tables are in the new directory `work`, which is removed afterwards.

    The driver's DuckDB reaches files below `work` and `directories`, no others.
    """
    work.mkdir()
    try:
        with duckdb_engine.open_engine(work / "driver", memory_limit, 0, directories=[work, *directories]) as shadow:
            connection = SparkConnection(session, work, memory_limit, shadow)
            try:
                yield connection
            finally:
                connection.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)


class SparkConnection(duckdb_engine.Cluster):
    """A connection to Spark with the interface of a DuckDB connection."""

    def __init__(self, session: SparkSession, work: Path, memory_limit: str, shadow: duckdb_engine.Connection) -> None:
        self._session = session
        self._work = work = work.absolute()  # executors may run in another directory
        self._executors = Executors(session, work, memory_limit)
        self._shadow = shadow  # the same tables, without rows
        self._parts: dict[str, list[Part]] = {}
        self._raw: set[str] = set()
        self._views: set[str] = set()
        self._files: dict[tuple[str, bool], str] = {}

    def close(self) -> None:
        """Drops the views of the session."""
        self._executors.close()
        for view in self._views:
            self._session.catalog.dropTempView(view)

    # --- interface of DuckDB's connection ---------------------------------------------------------------------------

    def execute(self, sql: str) -> Answer:
        """Runs statements; the answer is the last one's."""
        try:
            statements = query_plan.statements(sql)
        except SqlglotError:
            self._shadow.execute(f"EXPLAIN {sql}")  # where DuckDB cannot read it either, it says why
            raise duckdb.NotSupportedError("DuckDB knows this SQL, the Spark engine's parser does not") from None
        answer = Answer([])
        for statement in statements:
            answer = self._execute(statement)
        return answer

    def sql(self, query: str) -> Relation:
        """A query whose result may be large."""
        return Relation(self, query)

    def _execute(self, statement: query_plan.Statement) -> Answer:
        tree = statement.tree
        if isinstance(tree, exp.Create):
            name = str(tree.this.name)
            self._shadow.execute(f"CREATE TABLE {name} AS {statement.query} WITH NO DATA")
            self._parts[name] = self._materialize(tree.expression, statement.query)
            return Answer([])
        if isinstance(tree, exp.Delete):
            self._delete(tree, statement.text)
            return Answer([])
        if isinstance(tree, exp.Drop):
            self._shadow.execute(statement.text)
            self._forget(str(query_plan.only_table(tree)))
            return Answer([])
        if isinstance(tree, exp.Query):
            self._shadow.execute(f"DESCRIBE {statement.text}")
            return Answer(self._fetch(tree, statement.text))
        raise NotImplementedError(statement.text)

    def _delete(self, tree: exp.Delete, text: str) -> None:
        name, condition = str(tree.this.name), tree.args["where"].this
        self._shadow.execute(text)
        kept = f"SELECT * FROM {name} WHERE NOT coalesce({query_plan.duckdb_sql(condition)}, false)"
        parts = self._on_parts(name, kept)
        self._forget(name)
        self._parts[name] = parts

    def _forget(self, name: str) -> None:
        if f"{name}_numbered" in self._parts:
            self._forget(f"{name}_numbered")
        remove_parts(self._parts.pop(name))
        self._drop_view(name)

    def _drop_view(self, name: str) -> None:
        if name in self._views:
            self._session.catalog.dropTempView(name)
            self._views.discard(name)

    # --- small results ----------------------------------------------------------------------------------------------

    def _fetch(self, tree: exp.Expression, text: str) -> list[tuple[Any, ...]]:
        combine = query_plan.combiners(tree)
        name = query_plan.only_table(tree) if combine else query_plan.base_table(tree, ordered=True)
        if name not in self._parts or not isinstance(tree, exp.Select):
            return [tuple(row) for row in self._frame(tree).collect()]
        if combine:
            rows = [row for part in self._on_parts(name, text) for row in self._read([part])]
            columns = zip(*rows, strict=True)
            present = [[value for value in column if value is not None] for column in columns]
            return [tuple(how(values) if values else None for how, values in zip(combine, present, strict=True))]
        ordered, keys, limit = transpile.with_order_keys(tree)
        parts = self._on_parts(name, query_plan.duckdb_sql(ordered) if keys else text)
        return self._read(parts, keys, limit)

    def _read(self, parts: Sequence[Part], order: Sequence[str] = (), limit: str = "") -> list[tuple[Any, ...]]:
        paths = ", ".join(quote_literal(part.path) for part in parts)
        hidden = f" EXCLUDE ({', '.join(key.split()[0] for key in order)})" if order else ""
        by = f" ORDER BY {', '.join(order)}" if order else ""
        found = self._shadow.execute(f"SELECT *{hidden} FROM read_parquet([{paths}]){by} {limit}").fetchall()
        remove_parts(parts)
        return found

    # --- tables ------------------------------------------------------------------------------------------------------

    def _materialize(self, tree: exp.Expression, text: str) -> list[Part]:
        """The parts of a query's result."""
        name = query_plan.base_table(tree)
        if name in self._parts:
            return self._on_parts(name, text)
        return self._executors.write(self._frame(tree))

    def _keep(self, tree: exp.Expression) -> str:
        """Gives a query's result a name."""
        name = self._executors.new_name()
        self._parts[name] = self._materialize(tree, query_plan.duckdb_sql(tree))
        return name

    def _on_parts(self, name: str, sql: str, numbered: bool = False) -> list[Part]:
        """The parts of a query's result, from those of the one table that it reads."""
        return self._executors.answer(name, self._parts[name], sql, numbered=numbered)

    # --- Spark's SQL -------------------------------------------------------------------------------------------------

    def _frame(self, tree: exp.Expression) -> DataFrame:
        """A query as a Spark frame, after what DuckDB has to do for it first."""
        lowered = transpile.transpile(tree, self)
        for table in list(lowered.find_all(exp.Table)):
            if table.name in self._parts:
                if _shows_rowid(table):
                    table.set("alias", exp.TableAlias(this=exp.to_identifier(table.alias_or_name)))
                    table.set("this", exp.to_identifier(self._numbered(table.name)))
                self._view(table.name)
        return self._session.sql(query_plan.spark_sql(lowered))

    def _view(self, name: str) -> None:
        if name not in self._views:
            paths = [part.path for part in self._parts[name]]
            self._session.read.parquet(*map(_as_path, paths)).createOrReplaceTempView(name)
            self._views.add(name)

    def _numbered(self, name: str) -> str:
        """A table with its `rowid` as a column."""
        numbered = f"{name}_numbered"
        if numbered not in self._parts:
            self._parts[numbered] = self._on_parts(name, f"SELECT * FROM {name}", numbered=True)
        return numbered

    # --- interface for `transpile` ------------------------------------------------------------------------------------

    def is_raw(self, name: str) -> bool:
        """Whether a table is an input table, of which Spark sees values made by DuckDB only."""
        return name in self._raw

    def is_null_on_null(self, expression: exp.Expression, name: str) -> bool:
        """Whether an expression over a table's columns is NULL where all of them are: an outer join keeps it so."""
        kinds = self._shadow.execute(f"DESCRIBE {name}").fetchall()
        nulls = ", ".join(f"CAST(NULL AS {kind}) AS {quote_identifier(column)}" for column, kind, *_ in kinds)
        bare = expression.transform(lambda node: exp.column(node.this.copy()) if isinstance(node, exp.Column) else node)
        sql = f"SELECT ({query_plan.duckdb_sql(bare)}) IS NULL FROM (SELECT CAST(NULL AS BIGINT) AS rowid, {nulls})"
        try:
            return bool(self._shadow.execute(sql).fetchall()[0][0])
        except duckdb.Error:
            return False

    def kind(self, expression: exp.Expression, name: str) -> str:
        """DuckDB's type of an expression over a table."""
        bare = expression.transform(lambda node: exp.column(node.this.copy()) if isinstance(node, exp.Column) else node)
        found = self._shadow.execute(f"DESCRIBE SELECT {query_plan.duckdb_sql(bare)} FROM {name}").fetchall()
        return str(found[0][1])

    def local(self, tree: exp.Expression) -> str:
        """Answers a query part by part and gives the result a name."""
        return self._keep(tree)

    def files(self, pattern: str, *, numbered: bool) -> str:
        """A view of Parquet files, with `file_row_number` where that is asked for."""
        key = (pattern, numbered)
        if key not in self._files:
            frame = self._session.read.parquet(*map(_as_path, sorted(glob.glob(pattern))))
            if numbered:
                frame = frame.selectExpr("*", "_metadata.row_index AS file_row_number")
            self._files[key] = self._executors.new_name()
            frame.createOrReplaceTempView(self._files[key])
            self._views.add(self._files[key])
        return self._files[key]

    def columns(self, name: str) -> list[str]:
        """A table's columns."""
        if name.startswith(MADE):
            return list(pq.read_schema(self._parts[name][0].path).names)
        return [row[0] for row in self._shadow.execute(f"DESCRIBE {name}").fetchall()]

    def as_of(self, query: as_of_joins.AsOf) -> str:
        """Answers an ASOF join part by part; the result's name."""
        parts = self._executors.write(self._frame(query.rows))
        edges: list[Any] = self._edges(_filled(parts), as_of_joins.EDGES)
        return self._ranged(parts, query.final(edges, [part.path for part in _filled(parts)]))

    def running(self, query: windows.Running) -> str:
        """Answers a query with windows part by part; the result's name."""
        parts = self._executors.write(self._frame(query.rows))
        if query.totals == ("COUNT(*)",) and not query.key:  # row counts are in the files' metadata
            edges: list[tuple[Any, ...]] = [(None, None, part.rows, part.rows) for part in _filled(parts)]
        else:
            edges = self._edges(_filled(parts), query.edges())
        return self._ranged(parts, query.final(edges))

    def _edges(self, parts: Sequence[Part], sql: str) -> list[tuple[Any, ...]]:
        """One row per part of sorted rows."""
        return [self._read([answer])[0] for answer in self._executors.answer("sorted", parts, sql)]

    def _ranged(self, parts: list[Part], queries: Sequence[str]) -> str:
        """Names the answers to one query per part of sorted rows, which go."""
        name = self._executors.new_name()
        self._parts[name] = self._executors.answer("sorted", _filled(parts), queries.__getitem__)
        remove_parts(parts)
        return name

    # --- large results -----------------------------------------------------------------------------------------------

    def schema(self, query: str) -> pa.Schema:
        """The schema that DuckDB gives a query's result."""
        return self._shadow.sql(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table().schema

    def _sorted_parts(self, query: str) -> tuple[list[Part], str]:
        """A query's result in order, and the SQL list that gives its columns DuckDB's names and types."""
        kinds = [(name, kind) for name, kind, *_ in self._shadow.execute(f"DESCRIBE {query}").fetchall()]
        frame = self._frame(query_plan.parse(query)).toDF(*[f"o{index}" for index in range(len(kinds))])
        select = [f"CAST(o{index} AS {kind}) AS {quote_identifier(name)}" for index, (name, kind) in enumerate(kinds)]
        return self._executors.write(frame), ", ".join(select)

    def stream(self, query: str, rows: int) -> pa.RecordBatchReader:
        """A query's result in order, from the executors' files; they go with the preparation's work directory."""
        parts, select = self._sorted_parts(query)
        paths = ", ".join(quote_literal(part.path) for part in parts)
        # a cursor: the steps ask for more while they read
        return self._shadow.cursor().sql(f"SELECT {select} FROM read_parquet([{paths}])").to_arrow_reader(rows)

    def write_parts(self, query: str, directory: Path) -> int:
        """Writes `part-NNNNN.parquet` files of a query's result in order, by the executors."""
        directory.mkdir(parents=True)
        parts, select = self._sorted_parts(query)
        total = sum(part.rows for part in parts)
        self._executors.answer("result", _filled(parts), f"SELECT {select} FROM result", directory)
        remove_parts(parts)
        return total

    # --- reading -----------------------------------------------------------------------------------------------------

    def read_table(self, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
        """Reads input files, one task each, with the readers of the DuckDB engine."""
        local, directory = self._executors.local, self._work / f"{name}_input"

        def read(pair: tuple[int, InputFile]) -> spark_tasks.Read | Failure:
            return spark_tasks.read_file(local, pair[1], wanted, str(directory / f"{pair[0]:05d}"))

        absolute = [replace(source, path=source.path.absolute()) for source in sources]
        found: list[spark_tasks.Read] = self._executors.spread(read, list(enumerate(absolute)))
        table = merge_tables.merge_tables(name, found, wanted, self._shadow)
        body = ", ".join(f"{column.identifier} {column.kind}" for column in table.columns.values())
        self._shadow.execute(f"CREATE TABLE {name} (source INTEGER{', ' if body else ''}{body})")
        self._raw.add(name)
        self._parts[name] = merge_tables.merge_parts(found, table)
        return table


def _filled(parts: list[Part]) -> list[Part]:
    """Those with rows, or one of the empty ones."""
    return [part for part in parts if part.rows] or parts[:1]


def _shows_rowid(table: exp.Table) -> bool:
    select = table.find_ancestor(exp.Select)
    return select is not None and any(
        column.name == "rowid" and column.table in (table.alias_or_name, "") for column in select.find_all(exp.Column)
    )


def _as_path(path: str) -> str:
    """A path for Spark, which reads paths as Hadoop's patterns."""
    return re.sub(r"[\\*?\[\]{}]", r"\\\g<0>", path)
