"""Bounds the cost of a filter for one item, in addition to the checks of `sql`.

Strangers write filters. So types are plain ones and lists of them, patterns are constants of bounded size, and the
number of functions is bounded.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from twotower_tf import sql
from twotower_tf.errors import DataError, unknown_name
from twotower_tf.retrieval import regex_size

TABLE = "items"

_MOST_FUNCTIONS = 200  # calls and casts
_LONGEST_PATTERN = 200  # characters of a regular expression
_LARGEST_PATTERN = 250  # its size with repetitions written out: what a character of text may cost
_REGULAR = frozenset({"regexp_matches", "regexp_full_match"})
_PATTERNS = _REGULAR | frozenset(
    "~~ !~~ ~~* !~~* ~~~ like_escape ilike_escape not_like_escape not_ilike_escape".split()
)
_TYPES = frozenset(
    """
    boolean bool logical tinyint int1 smallint int2 short integer int int4 signed bigint int8 long hugeint
    utinyint usmallint uinteger ubigint float float4 real double float8 decimal dec numeric
    varchar text string char bpchar date time timestamp datetime interval
    """.split()
)


def check(predicate: str, columns: Collection[str]) -> set[str]:
    """Checks a filter; returns the columns that it uses, in lower case.

    Raises:
        DataError: for a filter that is not an expression over the columns, or could cost much.
    """
    sql.check_expression(predicate, "filter", columns, kind="filter", table=TABLE)
    functions = 0
    for node in sql.parse_nodes(predicate, "filter"):
        if node["class"] == "FUNCTION":
            _check_patterns(node)
        elif node["class"] == "TYPE":
            _check_type(node)
        functions += node["class"] in ("FUNCTION", "CAST")
        if functions > _MOST_FUNCTIONS:
            raise DataError(
                f"filter: {sql.shorten(predicate)}: too many functions and casts (expected at most {_MOST_FUNCTIONS})"
            )
    return {name.lower() for name in sql.find_columns(predicate, "filter", TABLE)}


def _check_patterns(node: dict[str, Any]) -> None:
    name = node["function_name"].lower()
    if name not in _PATTERNS:
        return
    arguments = [argument["expression"] for argument in node["arguments"][1:]]
    if any(argument["class"] != "CONSTANT" for argument in arguments):
        raise DataError(f"filter: the pattern of {name} is not a constant; write it as text between quotes")
    if name in _REGULAR and arguments:
        pattern = str(arguments[0]["literal"].get("text", ""))
        size = regex_size.measure_expanded(pattern)
        if len(pattern) > _LONGEST_PATTERN or size > _LARGEST_PATTERN:
            raise DataError(
                f"filter: regular expression {sql.shorten(pattern)}: invalid size (expected at most {_LONGEST_PATTERN} "
                f"characters, and {_LARGEST_PATTERN} with repetitions written out; found {len(pattern)} and {size})"
            )


def _check_type(node: dict[str, Any]) -> None:
    """Passes plain types and lists of them: a fixed-size array allocates its size for every item."""
    name, inner = node["type_name"].lower(), node["children"]
    if name == "list" and len(inner) == 1 and inner[0].get("type_name", "").lower() != "list":
        return
    if name not in _TYPES or node.get("schema") or node.get("catalog"):
        raise DataError(f"filter: {unknown_name('type', name, _TYPES)}")
