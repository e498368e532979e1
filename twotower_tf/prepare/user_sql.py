"""Evaluates user-written SQL predicates and expressions over the log's columns, which are typed by their values.

`rejected`, `weight`, `list_id` and `position` become columns of the examples, each only where the configuration names
it:

- `rejected`: true where the predicate holds and the row is not a positive.
- `weight`: the expression as float32. NULL, NaN, a negative number or one beyond float32 is invalid: the row is
  quarantined, unless a rule excludes it.
- `list`: 63 bits of the MD5 of the list's id, the same in every run and on every engine; -1 where there is none.
- `position`: a float64; NULL where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from twotower_tf import sql
from twotower_tf.config import DataConfig
from twotower_tf.errors import DataError
from twotower_tf.prepare import schema
from twotower_tf.sql import Connection, describe_value, quote_identifier
from twotower_tf.tables import duckdb_engine, quarantine
from twotower_tf.tables.duckdb_engine import fetch_row, first_line
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.values import number_sql

_NUMBER = r"-?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?"
_LARGEST = "3.4028234663852886e38"  # of float32
NO_LIST = -1
_PREDICATES = ("positive", "rejected", "exclude")
FUNCTIONS = sql.FUNCTIONS | frozenset(
    """
    concat concat_ws replace regexp_extract regexp_replace reverse lpad rpad strptime try_strptime strftime
    hash md5 sha256 ascii unicode chr bit_count epoch_us epoch_ns isodow weekofyear
    """.split()
)
_OWN = frozenset("__place __user __item __ts __label __given __reason __list __position".split())


@dataclass(frozen=True)
class UserExpressions:
    """The configuration's expressions, for SELECTs that read `named` columns.

    Attributes:
        data: the configuration.
        table: the log.
        named: `, EXPRESSION AS NAME` of every column that the expressions mention.
        refused: errors of expressions that are not valid over the log's columns, one line each.
    """

    data: DataConfig
    table: Table
    named: str
    refused: tuple[str, ...] = ()

    @classmethod
    def of(cls, connection: Connection, data: DataConfig, table: Table) -> UserExpressions:
        """Parses the expressions, and infers the types of the columns that they mention from the values."""
        refused = tuple(_find_refused(data, table))
        if refused:
            return cls(data, table, "", refused)
        names = [_find_spellings(name, table)[0] for name in schema.find_referenced_columns(data)]
        columns = cast_columns(connection, table, sorted(set(names)))
        return cls(
            data, table, "".join(f", {expression} AS {quote_identifier(name)}" for name, expression in columns.items())
        )

    def holds(self, field: str, default: str = "false") -> str:
        """Returns SQL for whether a predicate holds; false for NULL."""
        predicate = getattr(self.data, field)
        return f"coalesce(CAST(({predicate}) AS BOOLEAN), false)" if predicate else default

    @property
    def weight(self) -> str:
        """SQL of the weight, float32; NULL where it is invalid."""
        number = f"TRY_CAST(({self.data.weight}) AS DOUBLE)"
        return f"CASE WHEN {number} BETWEEN 0 AND {_LARGEST} THEN CAST({number} AS FLOAT) END"

    @property
    def wrong_weight(self) -> str:
        """SQL of the reason why a weight is invalid."""
        reason = describe_value("weight:", f"CAST(({self.data.weight}) AS VARCHAR)", "is not a number of at least 0")
        return f"coalesce({reason}, 'weight: no value')"

    def key_columns(self, label: str) -> str:
        """Returns SQL of the configured key columns over `raw` and `named` ones; `label` is SQL of the row's label."""
        data = self.data
        found = {
            "rejected": f"{label} = 0 AND {self.holds('rejected')}",
            "weight": self.weight,
            "list": "__list",
            "position": "__position",
        }
        return "".join(f", {found[name]} AS {name}" for name in schema.list_key_columns(data))

    @property
    def raw(self) -> str:
        """SQL of the log's columns that the key columns read: `, EXPRESSION AS NAME` each."""
        data, table = self.data, self.table
        if not data.list_id:
            return ""
        column = table.columns[data.position]
        return (
            f", coalesce(CAST(md5_number_lower({table.text(data.list_id)}) >> 1 AS BIGINT), {NO_LIST}) AS __list"
            f", {number_sql(column.identifier, column.kind)} AS __position"
        )

    def faults(self, connection: Connection) -> Iterator[str]:
        """Runs each expression by itself and yields errors that name its field.

        An error is an expression that cannot be evaluated, or that most weights or positions are invalid.
        """
        yield from self.refused
        if self.refused:
            return  # none is run
        broken = False
        for field in _PREDICATES:
            predicate = getattr(self.data, field)
            if predicate:
                fault = self._check_expression(connection, field, f"CAST(({predicate}) AS BOOLEAN)")
                broken = broken or bool(fault)
                yield from fault
        if self.data.weight:
            fault = self._check_expression(connection, "weight", f"TRY_CAST(({self.data.weight}) AS DOUBLE)")
            yield from fault or (() if broken else self._check_weights(connection))
        if self.data.position:
            yield from self._check_positions(connection)

    def _check_expression(self, connection: Connection, field: str, expression: str) -> list[str]:
        relation = f"SELECT {self.named[2:]} FROM events" if self.named else "SELECT 1"
        try:
            connection.execute(f"SELECT count(*) FROM (SELECT {expression} AS held FROM ({relation})) WHERE held")
        except duckdb.Error as error:
            if isinstance(error, duckdb_engine.RESOURCE_ERRORS):
                raise
            return [f"data.{field}: {getattr(self.data, field)!r} cannot be evaluated: {first_line(error)}"]
        return []

    def _check_weights(self, connection: Connection) -> Iterator[str]:
        rows = f"(SELECT rowid AS __place{self.named} FROM events) WHERE NOT {self.holds('exclude')}"
        total, usable = fetch_row(connection, f"SELECT count(*), count({self.weight}) FROM {rows}")
        if usable * 2 < total:
            found = connection.execute(
                f"SELECT __place, {self.wrong_weight} FROM {rows} AND ({self.weight}) IS NULL ORDER BY __place LIMIT 1"
            ).fetchall()
            example = "".join(
                f" {why} at {quarantine.format_row_place(connection, self.table, place)}" for place, why in found
            )
            yield (
                f"data.weight: {self.data.weight!r}: {total - usable} of {total} weights are not numbers of at "
                f"least 0; e.g.{example}"
            )

    def _check_positions(self, connection: Connection) -> Iterator[str]:
        name = self.data.position
        text, column = self.table.text(name), self.table.columns[name]
        number = number_sql(column.identifier, column.kind)
        present, usable = fetch_row(connection, f"SELECT count({text}), count({number}) FROM events")
        if usable * 2 < present:
            example = quarantine.format_example(
                connection, self.table, name, f"{text} IS NOT NULL AND ({number}) IS NULL"
            )
            yield f"data.position: column {name!r}: {present - usable} of {present} values are not numbers;{example}"


def _find_refused(data: DataConfig, table: Table) -> Iterator[str]:
    """Yields the errors of expressions that are not valid over the log's columns, one line each."""
    found: dict[str, str] = {}
    for field, text in schema.list_expressions(data).items():
        where = f"data.{field}"
        kind = "predicate" if field in _PREDICATES else "weight"
        try:
            sql.check_expression(text, where, table.known, kind=kind, functions=FUNCTIONS, comments=False)
        except DataError as error:
            yield str(error)
            continue
        for name in sql.find_columns(text, where):
            spelled = _find_spellings(name, table)
            if len(spelled) > 1 or found.setdefault(name.lower(), spelled[0]) != spelled[0]:
                twins = sorted({*spelled, found.get(name.lower(), spelled[0])})
                yield f"{where}: columns {', '.join(map(repr, twins))} differ in case only; SQL needs other names"
            elif name.lower() in _OWN:
                yield f"{where}: column {name!r} has a name that twotower uses internally; rename it"


def _find_spellings(name: str, table: Table) -> list[str]:
    """Returns the columns that a name in an expression may mean: the one of that spelling, or those in other cases."""
    return [name] if name in table.columns else [each for each in table.columns if each.lower() == name.lower()]


def cast_columns(connection: Connection, table: Table, names: Sequence[str], alias: str = "") -> dict[str, str]:
    """Returns SQL of columns with the type that all of their values have, for predicates over text tables."""
    return {name: cast_column(table, name, kind, alias) for name, kind in infer_types(connection, table, names).items()}


def cast_column(table: Table, name: str, kind: str, alias: str = "") -> str:
    """Returns SQL of a column with a type of `infer_types`, or VARCHAR."""
    if kind == "VARCHAR":
        return table.text(name, alias)
    column = table.columns[name]
    if column.kind == "VARCHAR":
        return f"CAST({table.text(name, alias)} AS {kind})"
    return f"{alias}.{column.identifier}" if alias else column.identifier


def infer_types(connection: Connection, table: Table, names: Sequence[str]) -> dict[str, str]:
    """Infers the type that all values of a column have.

    A text column is BIGINT where every value is an integer in its plain form (no leading zero or sign +), DOUBLE where
    every value is a number, and VARCHAR otherwise, or where it has no value.
    """
    found = {name: table.columns[name].kind for name in names}
    texts = [name for name in names if found[name] == "VARCHAR"]
    if not texts:
        return found
    counts = []
    for name in texts:
        text = table.text(name)
        integer = f"regexp_full_match({text}, '-?(0|[1-9][0-9]{{0,17}})')"
        number = f"regexp_full_match({text}, '{_NUMBER}') AND TRY_CAST({text} AS DOUBLE) IS NOT NULL"
        counts += [f"count({text})", f"count(*) FILTER ({integer})", f"count(*) FILTER ({number})"]
    row = fetch_row(connection, f"SELECT {', '.join(counts)} FROM {table.name}")
    for position, name in enumerate(texts):
        present, integers, numbers = row[3 * position : 3 * position + 3]
        if present:
            found[name] = "BIGINT" if integers == present else "DOUBLE" if numbers == present else "VARCHAR"
    return found
