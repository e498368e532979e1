"""Reads JSON: one object per line, an array of objects, or objects over several lines; members as canonical texts."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Sequence

import duckdb

from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import csv_records, duckdb_engine, input_files, json_layout, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted
from twotower_tf.tables.readers import scans
from twotower_tf.tables.values import text_sql

_LONG = 19  # characters of a decimal that a double, of 17 digits, may not hold
_DECIMAL = r"\s*:\s*(-?[0-9]+[.][0-9]+)"
# DuckDB accepts NaN and Infinity as numbers, which JSON does not have; inside texts the words are allowed
_NOT_A_NUMBER = (
    "(regexp_matches(line, '(?i)nan|inf') AND "
    r"""regexp_matches(regexp_replace(line, '"(?:[^"\\]|\\.)*"', '', 'g'), '(?i)nan|inf'))"""
)


_GOOD = f"coalesce(CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' AND NOT {_NOT_A_NUMBER} END, false)"


def read_json(connection: Connection, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
    """Reads the objects as text, then the members of those that are objects."""
    staged = f"{name}_lines"
    for source in sources:
        input_files.check_archive(source)
    sources = [text_encoding.convert_file(source, duckdb_engine.find_work_directory(connection)) for source in sources]
    connection.execute(f"CREATE TABLE {staged} (source INTEGER, line VARCHAR, good BOOLEAN)")
    forms = [(json_layout.find_layout(source), scans.compression(source)) for source in sources]
    for (layout, _), members in itertools.groupby(range(len(sources)), key=forms.__getitem__):
        _stage(connection, staged, sources, list(members), layout)
    lines = any(layout == json_layout.LINES for layout, _ in forms)
    malformed = csv_records.take_rejected(connection, sources) if lines else []
    malformed += csv_records.find_non_json(connection, staged, sources)
    keys = connection.execute(
        f"SELECT key, min(place) FROM (SELECT unnest(json_keys(line)) AS key, rowid AS place FROM {staged} WHERE good) "
        "GROUP BY key ORDER BY 2, 1"
    ).fetchall()
    known = [str(key) for key, _ in keys if scans.is_usable_name(str(key))]
    partition = scans.list_partition_keys(sources, known)
    columns = scans.select_columns(known, wanted, partition)
    scans.create_table(connection, name, columns)
    null_values = sources[0].options.null_values
    values = [
        f"list_extract([{scans.partition_values(sources, column)}], source + 1)"
        if column in partition
        else _json_text(column, null_values)
        for column in columns
    ]
    connection.execute(
        f"INSERT INTO {name} SELECT {', '.join(['source', *values])} FROM {staged} WHERE good ORDER BY rowid"
    )
    connection.execute(f"DROP TABLE {staged}")
    return Table(name, sources, columns, [*known, *partition], malformed)


def _stage(connection: Connection, staged: str, sources: list[InputFile], positions: list[int], layout: str) -> None:
    """Inserts the objects of consecutive files of one layout, as text, into `staged`.

    A file with carriage returns inside its lines is replaced by a copy without them, in `sources`.
    """
    some = [sources[position] for position in positions]
    paths, compression = scans.file_list(some), scans.compression(some[0])
    if layout == json_layout.LINES:
        scan = (
            f"read_csv([{paths}], columns={{'line': 'VARCHAR'}}, header=false, auto_detect=false, delim='\\x01', "
            f"quote='', escape='', compression='{compression}', filename='{scans.FILE_COLUMN}', "
            f"{scans.COLLECT_REJECTED})"
        )
    else:
        scan = (
            f"(SELECT CAST(json AS VARCHAR) AS line, {scans.FILE_COLUMN} FROM read_json_objects([{paths}], "
            f"format={quote_literal(layout)}, compression='{compression}', filename='{scans.FILE_COLUMN}'))"
        )
    try:
        connection.execute(
            f"INSERT INTO {staged} SELECT {scans.file_position(sources, positions)} AS source, line, {_GOOD} AS good "
            f"FROM {scan}"
        )
    except duckdb.Error as error:
        mixed = [at for at in positions if not sources[at].repaired and scans.has_mixed_ends(sources[at], error)]
        if not mixed:
            raise scans.build_read_error(some, error) from None
        for at in mixed:
            sources[at] = text_encoding.replace_returns(sources[at], duckdb_engine.find_work_directory(connection))
        _stage(connection, staged, sources, positions, layout)


def _json_text(column: str, null_values: Collection[str]) -> str:
    """Returns SQL for the canonical text of a member; a list's elements are joined by `|`."""
    path = quote_literal("/" + column.replace("~", "~0").replace("/", "~1"))  # a JSON pointer can express any name
    element = _scalar_text("json_type(element)", "json_extract_string(element, '$')")
    elements = f"json_extract(json_extract(line, {path}), '$[*]')"
    joined = f"array_to_string(list_transform({elements}, lambda element: {_present(element, null_values)}), '|')"
    kind = f"json_type(line, {path})"
    value = f"json_extract_string(line, {path})"
    scalar = f"coalesce({_long_decimal(column, kind, value)}, {_scalar_text(kind, value)})"
    return f"CASE WHEN {kind} = 'ARRAY' THEN nullif({joined}, '') ELSE {_present(scalar, null_values)} END"


def _present(text: str, null_values: Collection[str]) -> str:
    return f"({scans.present_text(text, null_values)})"


def _scalar_text(kind: str, value: str) -> str:
    """Returns SQL for the canonical text of a JSON value of type `kind`, whose own text is `value`.

    DuckDB reports an integer beyond 64 bits as a DOUBLE; its text has all of the digits.
    """
    number = text_sql(f"TRY_CAST({value} AS DOUBLE)", "DOUBLE")
    whole = f"regexp_full_match({value}, '-?[0-9]+')"
    return f"CASE WHEN {kind} = 'DOUBLE' AND NOT {whole} THEN {number} ELSE nullif({value}, '') END"


def _long_decimal(column: str, kind: str, value: str) -> str:
    """Returns SQL for a member that is a decimal of more digits than a double has, with all of them; else NULL.

    DuckDB's functions round it: the digits are taken from the line, after the member's name.
    """
    name = re.escape(json.dumps(column, ensure_ascii=False))
    found = f"regexp_extract(line, {quote_literal(name + _DECIMAL)}, 1)"
    same = f"TRY_CAST({found} AS DOUBLE) = TRY_CAST({value} AS DOUBLE)"
    return (
        f"CASE WHEN {kind} = 'DOUBLE' AND regexp_matches(line, '[0-9.]{{{_LONG}}}') AND {same} "
        f"THEN rtrim(rtrim({found}, '0'), '.') END"
    )
