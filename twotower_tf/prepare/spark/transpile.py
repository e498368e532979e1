"""Analyses a step's SQL, which is DuckDB's: whether DuckDB can run it part by part; and writes it as Spark's SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import sqlglot
from sqlglot import exp

_ACROSS_ROWS = (exp.AggFunc, exp.Window, exp.Group, exp.Distinct, exp.Join, exp.Unnest, exp.SetOperation, exp.With)
_COMBINED: dict[type[exp.AggFunc], Callable[..., Any]] = {exp.Count: sum, exp.Sum: sum, exp.Min: min, exp.Max: max}


def parse(sql: str) -> exp.Expression:
    """Parses DuckDB's SQL."""
    return cast(exp.Expression, sqlglot.parse_one(sql, dialect="duckdb"))


def find_base_table(tree: exp.Expression, *, ordered: bool = False) -> str:
    """Finds the one table of a query that is evaluated row by row; "" for any other query.

    With `ordered` the query may sort and limit at its end.
    """
    tables = list(tree.find_all(exp.Table))
    if not isinstance(tree, exp.Select) or len(tables) != 1 or not isinstance(tables[0].this, exp.Identifier):
        return ""
    sorting = [node for kind in (exp.Order, exp.Limit, exp.Offset) for node in tree.find_all(kind)]
    if tree.find(*_ACROSS_ROWS) or any(not (ordered and node.parent is tree) for node in sorting):
        return ""
    return str(tables[0].name)


def find_combiners(tree: exp.Expression) -> tuple[str, list[Callable[..., Any]]]:
    """Finds the table of `SELECT aggregate, ...`, and how to combine each column of its parts; "" for other queries."""
    rows = tree.copy()
    rows.set("expressions", [exp.Star()])
    found = []
    for selected in tree.expressions:
        aggregate = selected.unalias()
        aggregate = aggregate.this if isinstance(aggregate, exp.Filter) else aggregate
        if type(aggregate) not in _COMBINED or len(list(aggregate.find_all(*_ACROSS_ROWS))) > 1:
            return "", []
        found.append(_COMBINED[type(aggregate)])
    return ("" if tree.args.get("group") else find_base_table(rows)), found


def write_clause(tree: exp.Expression, name: str) -> str:
    """Writes a clause of a query ("order", "limit") as DuckDB's SQL; "" where there is none."""
    found = tree.args.get(name)
    return found.sql(dialect="duckdb") if found else ""


def write_spark_sql(tree: exp.Expression, view_files: Callable[[str], str]) -> str:
    """Writes a query as Spark's SQL; `view_files` returns the name of a view of the files of a pattern."""

    def name_files(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Table) and isinstance(node.this, exp.ReadParquet):
            node.set("this", exp.to_identifier(view_files(node.this.expressions[0].this)))
        return node

    return tree.transform(name_files).sql(dialect="spark")
