"""Transpiles DuckDB's SQL to a query for Spark: DuckDB evaluates the parts that Spark does not have first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from sqlglot import exp

from twotower_tf.prepare.spark import as_of_joins, query_plan, windows

# types that mean the same to both engines; others pass through Spark as text
_PLAIN = frozenset({"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR"})


class Engine(Protocol):
    """Interface of the engine that evaluates parts of a query."""

    def is_raw(self, name: str) -> bool:
        """Whether a table is an input table."""

    def is_null_on_null(self, expression: exp.Expression, name: str) -> bool:
        """Whether an expression is NULL where all columns are."""

    def kind(self, expression: exp.Expression, name: str) -> str:
        """DuckDB's type of an expression."""

    def local(self, tree: exp.Expression) -> str:
        """Answers a query row by row; the result's name."""

    def files(self, pattern: str, *, numbered: bool) -> str:
        """A view of Parquet files."""

    def columns(self, name: str) -> Sequence[str]:
        """A table's columns."""

    def as_of(self, query: as_of_joins.AsOf) -> str:
        """Answers an ASOF join part by part; the result's name."""

    def running(self, query: windows.Running) -> str:
        """Answers a query with windows part by part; the result's name."""


def transpile(tree: exp.Expression, engine: Engine) -> exp.Expression:
    """Transpiles one of DuckDB's queries to a query for Spark."""
    root = exp.Subquery(this=tree.copy())  # so that the root can be replaced as any other node
    _read_files(root, engine)
    for select in list(query_plan.selects(root)):
        if select.parent is None:
            continue  # went with one that was replaced
        name = query_plan.base_table(select)
        if name and engine.is_raw(name):
            _replace(select, engine.local(select.copy()))
            continue
        while (index := as_of_joins.find_as_of_join(select)) is not None:
            join, rest = as_of_joins.split_as_of(select, index, engine.columns)
            rest.args["from_"].this.replace(exp.alias_(exp.to_table(engine.as_of(join)), "joined", table=True))
            select.replace(rest)
            select = rest
        for table in _own_tables(select):
            if engine.is_raw(table.name):
                _push_down(select, table, engine)
        parts = windows.plan_running(select)
        if parts is not None:
            rows = _with_earlier(parts.rows, select, root)
            _replace(select, engine.running(dataclasses.replace(parts, rows=rows)))
    found: exp.Expression = root.this
    found.pop()
    return found


def with_order_keys(tree: exp.Select) -> tuple[exp.Expression, list[str], str]:
    """A query that also gives the keys it is sorted by; those keys with their directions, and its LIMIT."""
    found = tree.copy()
    order, limit = found.args.get("order"), found.args.get("limit")
    keys = []
    for index, key in enumerate(order.expressions if order else ()):
        found.select(exp.alias_(key.this.copy(), f"order_{index}"), copy=False)
        keys.append(f"order_{index}{' DESC' if key.args.get('desc') else ''}")
    return found, keys, query_plan.duckdb_sql(limit) if limit else ""


def _replace(select: exp.Select, name: str) -> None:
    select.replace(exp.select("*").from_(name))


def _own_tables(select: exp.Select) -> list[exp.Table]:
    """The tables that a SELECT itself reads."""
    return [table for table in select.find_all(exp.Table) if table.find_ancestor(exp.Select) is select]


def _read_files(root: exp.Expression, engine: Engine) -> None:
    for table in list(root.find_all(exp.Table)):
        function = table.this
        if not isinstance(function, exp.Func):
            continue
        pattern, *options = function.expressions if isinstance(function, exp.ReadParquet) else (None,)
        if pattern is None or not isinstance(pattern, exp.Literal):
            raise NotImplementedError(f"a table function: {query_plan.duckdb_sql(table)}")
        view = exp.to_table(engine.files(pattern.this, numbered=bool(options)))
        view.set("alias", table.args.get("alias"))
        table.replace(view)


# --- values of input tables in joins --------------------------------------------------------------------------------


def _push_down(select: exp.Select, table: exp.Table, engine: Engine) -> None:
    """Evaluates a query's expressions over an input table in DuckDB, before the join."""
    alias, name = table.alias_or_name, table.name
    alone = len(_own_tables(select)) == 1
    made: dict[str, exp.Expression] = {}

    def owned(node: exp.Expression) -> bool:
        columns = list(node.find_all(exp.Column))
        return bool(columns) and all(column.table == alias or (alone and not column.table) for column in columns)

    def visit(node: exp.Expression) -> None:
        if (
            isinstance(node, exp.Condition)
            and owned(node)
            and not isinstance(node, exp.AggFunc | exp.Window | exp.Filter)
        ):
            if not node.find(exp.AggFunc, exp.Window) and engine.is_null_on_null(node, name):
                value = node.copy()
                key = query_plan.duckdb_sql(value)
                made.setdefault(key, value)
                node.replace(exp.column(f"v{list(made).index(key)}", table=alias))
                return
        for child in list(node.iter_expressions()):
            if not isinstance(child, exp.Select | exp.Table):
                visit(child)

    for part in [*select.expressions, *(select.args.get("joins") or ()), *_clauses(select)]:
        visit(part)
    values = []
    for index, value in enumerate(made.values()):
        if engine.kind(value, name) not in _PLAIN:
            value = exp.cast(value.copy(), "VARCHAR")
        values.append(exp.alias_(_unqualified(value), f"v{index}"))
    result = exp.to_table(engine.local(exp.select(*values).from_(name)))
    result.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))
    table.replace(result)


def _clauses(select: exp.Select) -> list[exp.Expression]:
    return [select.args[name] for name in ("where", "group", "having", "order") if select.args.get(name)]


def _unqualified(tree: exp.Expression) -> exp.Expression:
    return tree.transform(lambda node: exp.column(node.this.copy()) if isinstance(node, exp.Column) else node)


# --- windows --------------------------------------------------------------------------------------------------------


def _with_earlier(rows: exp.Select, select: exp.Select, root: exp.Subquery) -> exp.Select:
    """`rows` with the common table expressions that its SELECT sees."""
    whole = root.this
    own = whole.ctes if isinstance(whole, exp.Query) else []
    if select is whole or not own:
        return rows
    around = select.find_ancestor(exp.CTE)
    for cte in own:
        if cte is around:
            break
        rows = rows.with_(cte.alias, cte.this.copy(), copy=False)
    return rows
