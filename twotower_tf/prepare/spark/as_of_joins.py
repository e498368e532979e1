"""Computes ASOF joins, which Spark does not have: the latest right row at or before each left row.

Both sides are sorted together by key, time and side, which Spark does in ranges; every range is a part. DuckDB joins
within each part, to which the key's last right row before the part is added. Work is linear in the rows, and a hot key
is split over many parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlglot import exp

from twotower_tf.prepare.spark import query_plan
from twotower_tf.sql import quote_literal

# of a part: its first and last key, and whether the last key has a right row here
EDGES = """
    WITH ends AS (SELECT first(CAST(k AS VARCHAR)) AS first_key, last(CAST(k AS VARCHAR)) AS last_key FROM sorted)
    SELECT first_key, last_key,
           (SELECT count(*) > 0 FROM sorted WHERE side = 0 AND CAST(k AS VARCHAR) = last_key)
    FROM ends
"""


@dataclass(frozen=True)
class AsOf:
    """Plan of an ASOF join part by part.

    Attributes:
        rows: the query of both sides' rows, sorted; the parts of its result are queried as the table `sorted`.
        left: columns of the result from the left.
        right: columns of the result from the right.
    """

    rows: exp.Expression
    left: tuple[str, ...]
    right: tuple[str, ...]

    def final(self, edges: Sequence[tuple[str | None, str | None, bool]], paths: Sequence[str]) -> list[str]:
        """Returns SQL for each part, from the edges and files of all parts."""
        columns = ", ".join(("k", "t", *self.right))
        answer = ", ".join((*(f"l.{name}" for name in self.left), *(f"r.{name}" for name in self.right)))
        found = []
        for earlier, (first, _, _) in zip(_carriers(edges), edges, strict=True):
            right = f"SELECT {columns} FROM sorted WHERE side = 0"
            if earlier is not None and first is not None:
                there = f"read_parquet({quote_literal(paths[earlier])}) WHERE side = 0"
                last = f"CAST(k AS VARCHAR) = {quote_literal(first)} ORDER BY t DESC LIMIT 1"
                right += f" UNION ALL (SELECT {columns} FROM {there} AND {last})"
            left = "(SELECT * FROM sorted WHERE side = 1) AS l"
            found.append(f"SELECT {answer} FROM {left} ASOF LEFT JOIN ({right}) AS r ON l.k = r.k AND l.t >= r.t")
        return found


def _carriers(edges: Sequence[tuple[str | None, str | None, bool]]) -> list[int | None]:
    """Returns per part the earlier part with its first key's last right row, if there is one."""
    found: list[int | None] = []
    for index, (first, _, _) in enumerate(edges):
        carrier = None
        if index:
            before, key, has_right = edges[index - 1]
            if key == first:
                carrier = index - 1 if has_right else found[index - 1] if before == key else None
        found.append(carrier)
    return found


def find_as_of_join(select: exp.Select) -> int | None:
    """Returns the position of a SELECT's first ASOF join among its joins."""
    joins = select.args.get("joins") or ()
    return next((index for index, join in enumerate(joins) if join.method == "ASOF"), None)


def split_as_of(select: exp.Select, index: int, columns_of: Callable[[str], Sequence[str]]) -> tuple[AsOf, exp.Select]:
    """Splits a SELECT at an ASOF join.

    Args:
        select: its tables are named tables.
        index: of the join among its joins.
        columns_of: returns a table's columns.

    Returns:
        the join with everything before it, and the SELECT that reads its result as the table `joined`.
    """
    join = select.args["joins"][index]
    tables = [select.args["from_"].this, *(each.this for each in select.args["joins"][: index + 1])]
    scope = {table.alias_or_name: columns_of(table.name) for table in tables}
    right_alias = join.this.alias_or_name
    key, time, since_key, since = _condition(join, right_alias)
    left: dict[str, exp.Column] = {}
    right: dict[str, exp.Column] = {}

    def renamed(node: exp.Expression) -> exp.Expression:
        if not isinstance(node, exp.Column):
            return node
        owner = node.table or next((alias for alias, names in scope.items() if node.name in names), "")
        if owner not in scope:
            return node
        side, mark = (right, "b") if owner == right_alias else (left, "a")
        side.setdefault(f"{owner}.{node.name}", exp.column(node.this.copy(), table=owner))
        return exp.column(f"{mark}{list(side).index(f'{owner}.{node.name}')}", table="joined")

    rest = select.copy()
    rest.set("joins", rest.args["joins"][index + 1 :])
    expressions = [
        exp.alias_(item.unalias().copy(), item.alias_or_name) if item.alias_or_name else item
        for item in rest.expressions
    ]
    rest.set("expressions", expressions)
    rest = cast(exp.Select, rest.transform(renamed))
    rest.set("from_", exp.From(this=exp.to_table("joined")))
    before = exp.Select(joins=[each.copy() for each in select.args["joins"][:index]])
    before.set("from_", select.args["from_"].copy())
    numbers = {"a": len(left), "b": len(right)}
    nulls = {mark: [exp.alias_(exp.null(), f"{mark}{at}") for at in range(count)] for mark, count in numbers.items()}
    values = [exp.alias_(value, f"a{at}") for at, value in enumerate(left.values())]
    before.set("expressions", [*values, *_place(key, time, 1), *nulls["b"]])
    values = [exp.alias_(value, f"b{at}") for at, value in enumerate(right.values())]
    held = exp.select(*nulls["a"], *_place(since_key, since, 0), *values).from_(join.this.copy())
    held = held.where(exp.Not(this=exp.Is(this=since.copy(), expression=exp.null())))
    both = exp.union(before, held, distinct=False, copy=False)
    rows = exp.select("*").from_(both.subquery("both_sides")).order_by("k", "t", "side")
    return AsOf(rows, *(tuple(f"{mark}{at}" for at in range(numbers[mark])) for mark in "ab")), rest


def _place(key: exp.Expression, time: exp.Expression, side: int) -> list[Any]:
    return [exp.alias_(key, "k"), exp.alias_(time, "t"), exp.alias_(exp.Literal.number(side), "side")]


def _condition(join: exp.Join, right: str) -> tuple[exp.Expression, exp.Expression, exp.Expression, exp.Expression]:
    """Returns left key and time, right key and time of `right.key = left.key AND left.time >= right.time`."""
    parts = list(join.args["on"].flatten())
    equal = next((each for each in parts if isinstance(each, exp.EQ)), None)
    later = next((each for each in parts if isinstance(each, exp.GTE)), None)
    if len(parts) != 2 or equal is None or later is None or later.expression.table != right or join.side != "LEFT":
        raise NotImplementedError(f"a join: {query_plan.duckdb_sql(join)}")
    sides = (equal.this, equal.expression)
    mine, theirs = sides if sides[1].table == right else sides[::-1]
    return mine.copy(), later.this.copy(), theirs.copy(), later.expression.copy()
