"""Checks user-written SQL expressions, and opens a DuckDB with restricted access.

An expression is parsed by DuckDB before it is run. Only columns, constants, comparisons and the functions below are
allowed: no subquery, nothing that reads a file, a setting or the clock, nothing whose result differs between two runs
or whose cost is not proportional to the number of rows. The database that runs it reads and writes files only below the
directories that the package names, loads no extension, and has its settings locked.
"""

from __future__ import annotations

import functools
import glob
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from twotower_tf.errors import DataError, unknown_name

# A text: a module that TensorFlow keeps alive until the interpreter has ended must not hold one of DuckDB's types.
Connection: TypeAlias = "duckdb.DuckDBPyConnection"

_LONGEST = 10_000  # characters
_QUOTED = 100  # characters of a value in a message
_DEEPEST = 50  # expressions or brackets inside each other
_MOST_SIGNS = 10  # in a row, such as - - - 1
_NO_SIGNS = frozenset([b"(", b"[", b"{", b")", b"]", b"}", b",", b".", b":", b";"])
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
_SETTINGS: Mapping[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    # DuckDB checks for signals in the calling thread, and then waits for its other threads. Without this, these finish
    # their tasks first, which may take as long as the query
    "scheduler_process_partial": "true",
}


def connect(database: str | Path = ":memory:", directories: Iterable[Path] = (), **settings: Any) -> Connection:
    """Opens a DuckDB that has access to files below given directories only, and loads no extension.

    Times are in UTC. The settings are final: no statement changes them.

    Args:
        database: its file, or `:memory:`.
        directories: below which files are read and written; none by default. In addition, only `database` and the
            setting `temp_directory`.
        settings: of DuckDB, by name, e.g. `threads=1`.
    """
    connection = duckdb.connect(database, config=dict(_SETTINGS))
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {quote_literal(str(value))}")
        paths = [str(each.absolute()) for each in directories]
        # DuckDB checks a pattern as it is written, and then each file that it finds
        allowed = dict.fromkeys([*paths, *map(glob.escape, paths)])
        connection.execute(f"SET allowed_directories = [{', '.join(map(quote_literal, allowed))}]")
        connection.execute("SET GLOBAL TimeZone = 'UTC'")  # global: cursors inherit it
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def check_expression(
    text: str,
    field: str,
    columns: Iterable[str],
    *,
    kind: str,
    table: str = "",
    functions: Collection[str] = FUNCTIONS,
    comments: bool = True,
) -> None:
    """Checks that a text is one expression over `columns`.

    Args:
        text: the user's expression.
        field: of the configuration or request, for messages.
        columns: names that it may use, compared without regard to case, as in SQL.
        kind: of expression, for messages, e.g. "filter".
        table: a name by which columns may be qualified.
        functions: that it may call.
        comments: whether it may have comments.

    Raises:
        DataError: naming what is not allowed.
    """
    names = tuple(columns)
    known = {name.lower() for name in names}
    tree = _parse(text, field)
    if not comments and any(token is duckdb.token_type.comment for _, token in duckdb.tokenize(text)):
        raise _invalid(text, field, "a comment is not allowed")
    for node in _nodes(tree, text, field):
        found, name = node["class"], str(node.get("function_name", "")).lower()
        if found == "COLUMN_REF":
            column = _column(node, table)
            if column.lower() not in known:
                raise DataError(f"{field}: {_unknown(column, names)}")
        elif found not in _CLASSES:
            raise _invalid(text, field, _reason(found, kind))
        elif name == "row":  # SQL's parse of () and of comma-separated values
            raise _invalid(text, field, "expected one expression")
        elif found == "FUNCTION" and (name not in functions or node.get("schema")):
            raise DataError(f"{field}: {unknown_name('function', name, functions)}")


def parse_nodes(text: str, field: str) -> Iterator[dict[str, Any]]:
    """Yields every node of an expression's parse tree, as DuckDB's `json_serialize_sql` describes it.

    Raises:
        DataError: where it is not a valid expression, or nested too deeply.
    """
    yield from _nodes(_parse(text, field), text, field)


def find_columns(text: str, field: str, table: str = "") -> list[str]:
    """Returns the names of columns as an expression spells them, without the table that may qualify them.

    Raises:
        DataError: where it is not a valid expression.
    """
    return list(
        dict.fromkeys(_column(node, table) for node in parse_nodes(text, field) if node["class"] == "COLUMN_REF")
    )


def _column(node: dict[str, Any], table: str) -> str:
    path = node["column_names"]
    return str(path[1] if table and len(path) == 2 and path[0].lower() == table else path[0])


@functools.cache
def _parser() -> Connection:
    return connect(threads=1, max_expression_depth=_DEEPEST + 10)


def _parse(text: str, field: str) -> Any:
    """Parses one expression into a tree.

    Raises:
        DataError: where the text is not one expression.
    """
    if len(text) > _LONGEST:
        raise DataError(f"{field}: invalid length {len(text):,} (expected at most {_LONGEST:,} characters)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _invalid(text, field, "it is not valid Unicode") from None
    _check_tokens(text, field)
    # on lines of its own, so that a comment at its end does not hide the bracket
    with _parser().cursor() as cursor:
        found = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{text}\n)"]).fetchone() or ("{}",)
    try:
        document = json.loads(found[0])
    except RecursionError:
        raise _too_deep(text, field) from None
    if document.get("error", True):
        message = str(document.get("error_message", "not SQL")).splitlines()[0]
        if "expression depth limit" in message:
            raise _too_deep(text, field)
        raise _invalid(text, field, message)
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
        raise _invalid(text, field, "expected one expression")
    return node["select_list"][0]


def _check_tokens(text: str, field: str) -> None:
    """Rejects texts that keep DuckDB's parser busy for minutes, during which it cannot be interrupted.

    Its time grows with the cube of the depth of brackets and the square of the number of signs in a row, and doubles
    with each WITH inside another (measured with DuckDB 2.0.0).

    Raises:
        DataError: where brackets or signs are nested too deeply, or for a WITH.
    """
    content, starts = text.encode(), duckdb.tokenize(text)  # in bytes
    depth = signs = 0
    for (start, kind), end in zip(starts, [*(start for start, _ in starts[1:]), len(content)], strict=False):
        if kind == duckdb.token_type.comment:
            continue
        token = content[start:end].strip().lower()
        depth += (token in (b"(", b"[", b"{")) - (token in (b")", b"]", b"}"))
        signs = signs + 1 if kind == duckdb.token_type.operator and token not in _NO_SIGNS else 0
        if depth > _DEEPEST or signs > _MOST_SIGNS:
            raise _too_deep(text, field)
        if token == b"with":
            raise _invalid(text, field, "a query is not allowed")


def _nodes(tree: Any, text: str, field: str) -> Iterator[dict[str, Any]]:
    """Yields every expression in a tree; without recursion, whose limit differs between versions of Python.

    Raises:
        DataError: where they are nested too deeply.
    """
    pending = [(tree, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, dict):
            depth += "class" in value
            if depth > _DEEPEST:
                raise _too_deep(text, field)
            if "class" in value:
                yield value
            pending += [(inner, depth) for inner in value.values()]
        elif isinstance(value, list):
            pending += [(inner, depth) for inner in value]


def _invalid(text: str, field: str, reason: str) -> DataError:
    return DataError(f"{field}: invalid expression {shorten(text)} ({reason})")


def _too_deep(text: str, field: str) -> DataError:
    return DataError(f"{field}: {shorten(text)} is nested too deeply (expected at most {_DEEPEST} levels)")


def _unknown(column: str, names: tuple[str, ...]) -> str:
    near = unknown_name("column", column, names)
    return near if "; known: " in near else f"{near} known: {', '.join(sorted(names))}"


def _reason(found: str, kind: str) -> str:
    reasons = {
        "SUBQUERY": f"a query inside a {kind} is not allowed",
        "PARAMETER": f"a parameter is not allowed in a {kind}",
        "STAR": "* is not a value",
        "WINDOW": f"a window function is not allowed: a {kind} sees one row",
        "LAMBDA": "a lambda is not allowed",
    }
    return reasons.get(found, f"{found.lower()} is not allowed")


def shorten(text: str) -> str:
    """Shortens and quotes an expression for an error message."""
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def quote_literal(text: str) -> str:
    """Quotes `text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def describe_value(kind: str, text: str, fault: str) -> str:
    """Returns SQL of a reason that quotes the value of `text`, an SQL expression; a long value is cut."""
    before, after = quote_literal(f"{kind} '"), quote_literal(f"' {fault}")
    return f"{before} || left({text}, {_QUOTED}) || {after}"


def quote_identifier(name: str) -> str:
    """Quotes `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def file_pattern(path: Path, files: str = "") -> str:
    """Quotes a file's path, or the `files` (a pattern) of a directory, for a table function that reads patterns.

    Characters of `path` that mean something in a pattern (`[`, `*`, `?`) stand for themselves.
    """
    escaped = glob.escape(str(path))
    return quote_literal(f"{escaped}/{files}" if files else escaped)
