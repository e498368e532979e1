"""Analyses a step's SQL: whether DuckDB can run it part by part; and writes it as Spark's SQL.

The steps are written in DuckDB's SQL. sqlglot parses it and writes Spark's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect

_ACROSS_ROWS = (exp.AggFunc, exp.Window, exp.Group, exp.Distinct, exp.Join, exp.Unnest, exp.SetOperation, exp.With)
_COMBINED: dict[type[exp.AggFunc], Callable[..., Any]] = {exp.Count: sum, exp.Sum: sum, exp.Min: min, exp.Max: max}


@dataclass(frozen=True)
class Statement:
    """One SQL statement.

    Attributes:
        tree: parsed.
        text: as it was written.
    """

    tree: exp.Expression
    text: str

    @property
    def query(self) -> str:
        """The text of a CREATE TABLE ... AS after its AS."""
        return re.sub(r"(?is)^\s*CREATE\s+TABLE\s+\w+\s+AS\s+", "", self.text, count=1)


def statements(sql: str) -> list[Statement]:
    """The statements of a text, separated by semicolons."""
    texts, start = [], 0
    for token in Dialect.get_or_raise("duckdb").tokenize(sql):
        if token.token_type.name == "SEMICOLON":
            texts.append(sql[start : token.start])
            start = token.end + 1
    texts.append(sql[start:])
    return [Statement(parse(text), text) for text in texts if text.strip()]


def parse(sql: str) -> exp.Expression:
    """DuckDB's SQL as a tree."""
    return cast(exp.Expression, sqlglot.parse_one(sql, dialect="duckdb"))


def duckdb_sql(tree: exp.Expression) -> str:
    """A tree as DuckDB's SQL."""
    return tree.sql(dialect="duckdb")


def spark_sql(tree: exp.Expression) -> str:
    """A tree as Spark's SQL."""
    return tree.transform(_for_spark).sql(dialect="spark")


def _for_spark(node: exp.Expression) -> exp.Expression:
    """Rewrites expressions that sqlglot leaves unchanged and Spark does not know."""
    if isinstance(node, exp.Window) and isinstance(node.this, exp.Filter):
        counted, condition = node.this.this, node.this.expression.this
        value = exp.Literal.number(1) if isinstance(counted.this, exp.Star) else counted.this
        node.set("this", type(counted)(this=exp.Case().when(condition, value)))
    elif isinstance(node, exp.Anonymous) and node.name.lower() == "isfinite":
        # NaN is larger than any number to Spark
        return exp.LT(
            this=exp.Abs(this=node.expressions[0]), expression=exp.cast(exp.Literal.string("Infinity"), "double")
        )
    return node


# --- row by row ---------------------------------------------------------------------------------------------------


def base_table(tree: exp.Expression, *, ordered: bool = False) -> str | None:
    """Returns the one table of a query that is evaluated row by row; None for any other query.

    With `ordered` the query may sort and limit at its end.
    """
    if not isinstance(tree, exp.Select):
        return None
    found = list(tree.find_all(exp.Table))
    if len(found) != 1 or not isinstance(found[0].this, exp.Identifier):
        return None
    if tree.find(*_ACROSS_ROWS):
        return None
    for kind in (exp.Order, exp.Limit, exp.Offset):
        if any(not (ordered and each.parent is tree) for each in tree.find_all(kind)):
            return None
    return str(found[0].name)


def only_table(tree: exp.Expression) -> str | None:
    """The name of a query's table where it has one."""
    names = [table.name for table in tree.find_all(exp.Table)]
    return names[0] if len(names) == 1 else None


def combiners(tree: exp.Expression) -> list[Callable[..., Any]] | None:
    """Returns per column how to combine the parts' results of `SELECT aggregate, ...`; None for other queries."""
    if not isinstance(tree, exp.Select) or tree.args.get("group"):
        return None
    rows = tree.copy()
    rows.set("expressions", [exp.Star()])
    if base_table(rows) is None:
        return None
    found = []
    for selected in tree.expressions:
        node = selected.unalias()
        aggregate = node.this if isinstance(node, exp.Filter) else node
        if type(aggregate) not in _COMBINED or len(list(node.find_all(*_ACROSS_ROWS))) > 1:
            return None
        found.append(_COMBINED[type(aggregate)])
    return found


def selects(tree: exp.Expression) -> Iterator[exp.Select]:
    """The SELECTs of a query, inner ones before outer ones, in the order in which they are written."""
    found = list(tree.find_all(exp.Select))
    yield from sorted(found, key=lambda select: -_depth(select))


def _depth(node: exp.Expression) -> int:
    return 0 if node.parent is None else 1 + _depth(cast(exp.Expression, node.parent))
