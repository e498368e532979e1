"""Filters: a boolean SQL expression over the catalogue's columns, which strangers may write.

A filter is parsed by DuckDB before it is run. Only an expression made of columns, constants, comparisons and the
functions below gets further: no query inside it, nothing that reads a file, a setting or the clock, nothing whose cost
does not go with the number of items. It runs in a DuckDB of its own that holds the catalogue only, and whose
configuration is locked without access to files.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower_tf.errors import DataError, unknown_name

Mask = npt.NDArray[np.bool_]

_LONGEST = 10_000  # characters
_CACHED = 64  # filters; a mask is one byte per item
_TABLE = "items"
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "1GB",
}
_CLASSES = frozenset("BETWEEN CASE CAST COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION OPERATOR TYPE".split())
FUNCTIONS = frozenset(
    """
    + - * / // % || ~~ !~~ ~~* !~~* ~~~ ^@ like_escape ilike_escape not_like_escape not_ilike_escape
    abs ceil ceiling floor round sign sqrt ln log10 log2 exp pow power mod greatest least isnan isinf isfinite
    lower upper trim ltrim rtrim length len strlen contains starts_with prefix ends_with suffix substring substr left
    right position strpos instr regexp_matches regexp_full_match split_part string_split str_split
    nullif ifnull if list_contains list_has array_contains array_has list_has_any array_has_any list_has_all
    array_has_all list_position list_value list_count array_length
    year month day hour minute second week quarter dayofweek dayofyear date_part date_trunc date_diff datediff to_days
    to_months to_years to_hours to_minutes to_seconds to_timestamp epoch epoch_ms make_date trunc
    """.split()
)


class Filters:
    """Evaluates filters over a catalogue, and remembers the latest ones. May be used from several threads.

    Attributes:
        columns: names that a filter may use.
    """

    def __init__(self, catalogue: pa.Table) -> None:
        """Keeps the catalogue, in row order."""
        self.columns = tuple(catalogue.column_names)
        self._size = catalogue.num_rows
        self._known: OrderedDict[str, Mask] = OrderedDict()
        self._lock = threading.Lock()
        self._connection = duckdb.connect(":memory:", config=_SETTINGS)
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.register("given", catalogue)
        chosen = ", ".join(_column(field) for field in catalogue.schema)
        self._connection.execute(f"CREATE TEMP VIEW {_TABLE} AS SELECT {chosen} FROM given")
        self._connection.execute("SET lock_configuration = true")

    def mask(self, predicate: str) -> Mask:
        """[num_items] bool: which items a filter lets through; where it is NULL, it does not.

        Raises:
            DataError: for a filter that is no boolean expression over the catalogue's columns, saying what is wrong.
        """
        with self._lock:
            if predicate in self._known:
                self._known.move_to_end(predicate)
                return self._known[predicate]
            self._check(predicate)
            mask = self._evaluate(predicate)
            mask.setflags(write=False)
            self._known[predicate] = mask
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)
            return mask

    def _check(self, predicate: str) -> None:
        if len(predicate) > _LONGEST:
            raise DataError(f"filter: at most {_LONGEST} characters are expected; came {len(predicate)}")
        try:
            predicate.encode()
        except UnicodeEncodeError:
            raise DataError(f"filter: {_shown(predicate)} is no SQL expression: it is not valid Unicode") from None
        expression = _parse(self._connection, predicate)
        known = {name.lower() for name in self.columns}
        for node in _nodes(expression):
            kind, name = node["class"], str(node.get("function_name", "")).lower()
            if kind == "COLUMN_REF":
                path = node["column_names"]
                column = path[1] if len(path) == 2 and path[0].lower() == _TABLE else path[0]
                if column.lower() not in known:
                    raise DataError(self._unknown(column))
            elif kind not in _CLASSES:
                raise DataError(f"filter: {_refused(kind)}: {_shown(predicate)}")
            elif name == "row":  # what SQL makes of (), and of values with commas between them
                raise DataError(f"filter: one boolean expression is expected; came {_shown(predicate)}")
            elif kind == "FUNCTION" and (name not in FUNCTIONS or node.get("schema")):
                raise DataError(f"filter: {unknown_name('function', name, FUNCTIONS)}")

    def _unknown(self, column: str) -> str:
        near = unknown_name("column", column, self.columns)
        told = "" if "; known: " in near else f" known: {', '.join(sorted(self.columns))}"
        return f"filter: {near}{told}"

    def _evaluate(self, predicate: str) -> Mask:
        # Each in a line of its own: a comment at the end of the filter comments out nothing of ours.
        query = f"SELECT coalesce(CAST((\n{predicate}\n) AS BOOLEAN), false) AS passes FROM {_TABLE}"
        try:
            found = self._connection.execute(query).fetchnumpy()["passes"]
        except duckdb.Error as error:
            raise DataError(f"filter: {_shown(predicate)} cannot be evaluated: {_reason(error)}") from None
        return np.ascontiguousarray(np.ma.getdata(found), np.bool_)


def _column(field: pa.Field) -> str:
    """SQL of a column: "" is no value, as everywhere."""
    name = '"' + field.name.replace('"', '""') + '"'
    return (
        f"nullif({name}, '') AS {name}"
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        else name
    )


def _parse(connection: duckdb.DuckDBPyConnection, predicate: str) -> Any:
    """The tree of the one expression that a filter is.

    Raises:
        DataError: where it is none, or something else.
    """
    (text,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{predicate}\n)"]).fetchone() or (
        "{}",
    )
    try:
        document = json.loads(text)
    except RecursionError:
        raise DataError(f"filter: {_shown(predicate)} is nested too deeply") from None
    if document.get("error", True):
        message = str(document.get("error_message", "not SQL")).splitlines()[0]
        raise DataError(f"filter: {_shown(predicate)} is no SQL expression: {message}")
    node = document["statements"][0]["node"]
    whole = (
        len(document["statements"]) == 1
        and node["type"] == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not (node["where_clause"] or node["group_expressions"] or node["having"] or node["qualify"])
        and not (node["modifiers"] or node["sample"] or node["cte_map"]["map"])
    )
    if not whole:
        raise DataError(f"filter: one boolean expression is expected; came {_shown(predicate)}")
    return node["select_list"][0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every expression in a tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _refused(kind: str) -> str:
    told = {
        "SUBQUERY": "a query inside a filter is refused",
        "PARAMETER": "a filter has no parameters",
        "STAR": "* is no value",
        "WINDOW": "a window function is refused: a filter looks at one item",
        "LAMBDA": "a lambda is refused",
    }
    return told.get(kind, f"{kind.lower()} is refused")


def _shown(predicate: str) -> str:
    return repr(predicate if len(predicate) <= 100 else f"{predicate[:97]}...")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]
