"""Computes windows that Spark would run in one task: over all rows, or over the rows of a hot key.

The rows of such a query are sorted, which Spark does in ranges, and every range is a part. DuckDB computes the windows
within each part; the total of the rows before the part (and after it) is added: of all rows, or of the key with which
the part begins or ends. A hot key is split over many parts, so no task is skewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlglot import exp

from twotower_tf.prepare.spark import query_plan
from twotower_tf.sql import quote_literal


@dataclass(frozen=True)
class Running:
    """Plan of a query with windows, part by part.

    Attributes:
        rows: the query of the windows' rows, sorted; its answer's parts are queried as the table `sorted`.
        totals: per window, SQL of the aggregate that other parts add to.
        key: SQL of the windows' key as text; "" where they are over all rows.
        sql: the answer for one part, where `before_N` and `after_N` stand for what other parts add to window N.
    """

    rows: exp.Select
    totals: tuple[str, ...]
    key: str
    sql: str

    def edges(self) -> str:
        """Returns SQL for a part: its first and last key, and the totals of the rows with each."""
        if not self.key:
            totals = ", ".join(f"coalesce({total}, 0)" for total in self.totals)
            return f"SELECT NULL, NULL, {totals}, {totals} FROM sorted"
        keyed = f"sorted WHERE {self.key} IS NOT DISTINCT FROM"
        ends = f"WITH ends AS (SELECT first({self.key}) AS first_key, last({self.key}) AS last_key FROM sorted)"
        sums = [
            f"(SELECT coalesce({total}, 0) FROM {keyed} (SELECT {end} FROM ends))"
            for end in ("first_key", "last_key")
            for total in self.totals
        ]
        return f"{ends} SELECT first_key, last_key, {', '.join(sums)} FROM ends"

    def final(self, edges: Sequence[Sequence[Any]]) -> list[str]:
        """Returns SQL for each part, from the edges of all parts."""
        count = len(self.totals)
        flipped = [(last, first, *sums[count:], *sums[:count]) for first, last, *sums in reversed(edges)]
        found = []
        for edge, before, after in zip(edges, _carried(edges), _carried(flipped)[::-1], strict=True):
            sql = self._added(self.sql, "before", edge[0], before)
            found.append(self._added(sql, "after", edge[1], after))
        return found

    def _added(self, sql: str, mark: str, key: object, sums: Sequence[int]) -> str:
        same = f"{self.key} IS NOT DISTINCT FROM {_text(key)}" if self.key else "true"
        for index, total in enumerate(sums):
            sql = sql.replace(f"{mark}_{index}_", f"(CASE WHEN {same} THEN {total} ELSE 0 END)")
        return sql


def _text(key: object) -> str:
    return "NULL" if key is None else quote_literal(str(key))


def _carried(edges: Sequence[Sequence[Any]]) -> list[tuple[int, ...]]:
    """Returns per part the totals of its first key in the parts before it."""
    found: list[tuple[int, ...]] = []
    key: object = None
    carried: tuple[int, ...] = ()
    for first, last, *sums in edges:
        of_first, of_last = (tuple(map(int, half)) for half in (sums[: len(sums) // 2], sums[len(sums) // 2 :]))
        found.append(carried if found and key == first else (0,) * len(of_first))
        carried = tuple(a + b for a, b in zip(found[-1], of_first, strict=True)) if last == first else of_last
        key = last
    return found


def plan_running(select: exp.Select) -> Running | None:
    """Plans a SELECT's windows part by part; None where Spark computes them.

    Raises:
        NotImplementedError: for a window over all rows that cannot be answered so.
    """
    windows = [window for item in select.expressions for window in item.find_all(exp.Window)]
    everywhere = [window for window in windows if not window.args.get("partition_by")]
    key = None if everywhere else _common_key(windows)
    orders = {query_plan.duckdb_sql(window.args["order"]): window.args["order"] for window in windows if _order(window)}
    unusable = len(orders) != 1 or any(select.args.get(clause) for clause in ("order", "group", "limit", "distinct"))
    unusable = unusable or any(item.find(exp.Star) and not item.find(exp.Window) for item in select.expressions)
    if unusable or (everywhere and len(everywhere) < len(windows)) or not (everywhere or key):
        if everywhere:
            raise NotImplementedError(f"windows over all rows: {query_plan.duckdb_sql(select)}")
        return None
    (order,) = orders.values()
    if not all(_is_additive(window) and _is_whole(window, key, order) for window in windows):
        if everywhere:
            raise NotImplementedError(f"windows over all rows: {query_plan.duckdb_sql(select)}")
        return None
    return _running(select, windows, key, order)


def _order(window: exp.Window) -> list[exp.Expression]:
    order = window.args.get("order")
    return list(order.expressions) if order else []


def _keys(window: exp.Window) -> list[str]:
    return [query_plan.duckdb_sql(key) for key in window.args.get("partition_by") or ()]


def _common_key(windows: Sequence[exp.Window]) -> exp.Column | None:
    """The one column that parts the rows of every window that has an order."""
    keys = {tuple(_keys(window)): window.args["partition_by"] for window in windows if _order(window)}
    if len(keys) != 1:
        return None
    (key,) = keys.values()
    return key[0] if len(key) == 1 and isinstance(key[0], exp.Column) else None


def _is_additive(window: exp.Window) -> bool:
    counted = window.this.this if isinstance(window.this, exp.Filter) else window.this
    return isinstance(counted, exp.RowNumber | exp.Count | exp.Sum) and not window.args.get("spec")


def _is_whole(window: exp.Window, key: exp.Column | None, order: exp.Order) -> bool:
    """Whether a window's rows are those of all, of the key, or of one place in the order, which no two parts share."""
    if key is None:
        return True
    name = query_plan.duckdb_sql(key)
    return _keys(window) == [name] or (not _order(window) and set(_keys(window)) == {name, *_order_names(order)})


def _order_names(order: exp.Order) -> set[str]:
    return {query_plan.duckdb_sql(each.this) for each in order.expressions}


def _total(window: exp.Window) -> exp.Expression:
    if isinstance(window.this, exp.RowNumber):
        return exp.Count(this=exp.Star())
    return cast(exp.Expression, window.this.copy())


def _running(select: exp.Select, windows: Sequence[exp.Window], key: exp.Column | None, order: exp.Order) -> Running:
    columns: dict[str, exp.Column] = {}

    def renamed(node: exp.Expression) -> exp.Expression:
        if not isinstance(node, exp.Column) or node.name.startswith(("before_", "after_")):
            return node
        columns.setdefault(query_plan.duckdb_sql(node), node.copy())
        return exp.column(f"w{list(columns).index(query_plan.duckdb_sql(node))}")

    texts = list(dict.fromkeys(query_plan.duckdb_sql(window) for window in windows))
    totals = {
        query_plan.duckdb_sql(window): query_plan.duckdb_sql(_total(window).transform(renamed)) for window in windows
    }
    selected = []
    for position, item in enumerate(select.expressions):
        holder = exp.select(exp.alias_(item.unalias().copy(), item.alias_or_name or f"column_{position}"))
        for window in list(holder.find_all(exp.Window)):
            marks = _marks(window, texts.index(query_plan.duckdb_sql(window)), key)
            whole: exp.Expression = window.copy()
            for mark in marks:
                whole = exp.Add(this=whole, expression=exp.column(mark))
            window.replace(exp.paren(whole) if marks else whole)
        selected.append(holder.expressions[0].transform(renamed))
    text = "" if key is None else f"CAST({query_plan.duckdb_sql(renamed(key))} AS VARCHAR)"
    rows = select.copy()
    rows.set("expressions", [exp.alias_(column, f"w{index}") for index, column in enumerate(columns.values())])
    first = [] if key is None else [exp.Ordered(this=key.copy())]
    rows.set("order", exp.Order(expressions=[*first, *(each.copy() for each in order.expressions)]))
    sql = f"SELECT {', '.join(query_plan.duckdb_sql(item) for item in selected)} FROM sorted"
    return Running(rows, tuple(totals[text] for text in texts), text, sql)


def _marks(window: exp.Window, index: int, key: exp.Column | None) -> list[str]:
    """What other parts add to a window: rows before it where it runs, also rows after it where it is of a whole key."""
    if _order(window):
        return [f"before_{index}_"]
    return [f"before_{index}_", f"after_{index}_"] if key is None or len(_keys(window)) == 1 else []
