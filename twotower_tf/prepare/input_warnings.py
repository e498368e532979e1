"""Finds what is odd about readable input: files without rows, rows set aside, side tables with other ids than the log.

Each finding is one line. They are shown on the screen and kept in the manifest.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twotower_tf.config import DataConfig, ExperimentConfig
from twotower_tf.number_texts import format_percent
from twotower_tf.prepare.schema import FeatureColumn, Inputs
from twotower_tf.prepare.unusable_tables import suggest_format
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import input_files, quarantine
from twotower_tf.tables.detect_format import FREQUENT_MARKER, NULL_MARKERS
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.read_options import TableName

_NAMED = 3  # files in a line
_FEW = 0.5  # of the log's ids: a side table with fewer is reported
_COMPARED = 1_000  # unmatched ids of each side whose forms are compared
_EXPLAINED = 0.2  # of them, at least, match in another form

# how two texts of one id may differ, and the text that both have in common
_FORMS: Mapping[str, Callable[[str], str]] = {
    "a final .0": lambda text: text[:-2] if text.endswith(".0") else text,
    "leading zeros": lambda text: text.lstrip("0") or "0",
    "the Unicode form (NFC, NFD)": lambda text: unicodedata.normalize("NFC", text),
    "blanks around them": str.strip,
    "upper and lower case": str.casefold,
    "a prefix of letters": lambda text: text.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-:") or text,
}


def find_file_warnings(data: DataConfig, name: str, table: Table) -> Iterator[str]:
    """Yields a line for files that are not read, files without rows, and columns without a name."""
    unread = input_files.find_unread_files(Path(data.root), getattr(data, name))
    if unread:
        yield f"data.{name}: {_list_files(unread)}: not read; the name has no suffix of the table's format"
    read = {record.source.name for record in table.malformed}
    empty = [
        source.name
        for source, first, last in zip(table.sources, table.starts, table.starts[1:], strict=False)
        if first == last and source.name not in read
    ]
    if empty and len(empty) < len(table.sources):
        yield f"data.{name}: {_list_files(empty)}: no rows"
    if table.unnamed:
        unnamed = _list_files([source.name for source in table.unnamed])
        yield f"data.{name}: {unnamed}: a column without a name is ignored"


def _list_files(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def describe_rejected(name: str, table: Table, entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields a line for the rows of a table that are set aside, with the first of them (see `quarantine`)."""
    rows = table.rows + len(table.malformed)
    if entries:
        first = entries[0]
        yield (
            f"data.{name}: {len(entries):,} of {rows:,} rows set aside; the first, "
            f"{quarantine.format_place(first)}: {first['reason']}{suggest_format(name, table)}"
        )


def find_unmatched(connection: Connection, inputs: Inputs) -> Iterator[str]:
    """Yields a line for a side table that has few of the log's ids, or whose ids are written in another form.

    Reads `validated_events`, and `item_latest`, `user_latest` of the tables.
    """
    for name, table in inputs.side_tables.items():
        side = name[:-1]
        logged = f"(SELECT DISTINCT {side}_id AS id FROM validated_events WHERE reason IS NULL AND NOT excluded)"
        total, matched = fetch_row(
            connection,
            f"SELECT count(*), count(l.id) FROM {logged} AS k LEFT JOIN {side}_latest AS l ON l.id = k.id",
        )
        if total == matched:
            continue
        logged_ids, table_ids = (
            [str(row[0]) for row in connection.execute(query).fetchall()]
            for query in (
                f"SELECT k.id FROM {logged} AS k ANTI JOIN {side}_latest AS l ON l.id = k.id "
                f"ORDER BY k.id LIMIT {_COMPARED}",
                f"SELECT l.id FROM {side}_latest AS l ANTI JOIN {logged} AS k ON l.id = k.id "
                f"ORDER BY l.id LIMIT {_COMPARED}",
            )
        )
        why, example, other = _explain(logged_ids, table_ids)
        if matched >= _FEW * total and not why:
            continue
        share = "none" if not matched else f"{matched:,} ({format_percent(matched / total)})"
        alike = unicodedata.normalize("NFC", example) == unicodedata.normalize("NFC", other)  # on a screen
        show = ascii if alike else repr
        shown = f"the log has {show(example)}" + (f", the table {show(other)}" if other else "")
        yield (
            f"data.{name}: {share} of the {total:,} {side} ids of the log {'are' if matched else 'is'} in "
            f"{table.sources[0].name}; {shown}{f', which differ in {why}: write the ids alike' if why else ''}"
        )


def _explain(logged_ids: Sequence[str], table_ids: Sequence[str]) -> tuple[str, str, str]:
    """Returns in which form ids of the two sides would be equal, or "", and an example of each side, or ""."""
    for why, form in _FORMS.items():
        known = {form(text): text for text in table_ids}
        equal = [text for text in logged_ids if form(text) in known]
        if len(equal) >= max(1, _EXPLAINED * len(logged_ids)):
            return why, equal[0], known[form(equal[0])]
    return "", logged_ids[0], table_ids[0] if table_ids else ""


def find_marked(connection: Connection, config: ExperimentConfig, inputs: Inputs) -> Iterator[str]:
    """Yields a line for texts such as NULL that are frequent in ids and features and usually mean a missing value."""
    data = config.data
    sides: Sequence[tuple[Table | None, Sequence[FeatureColumn], Sequence[str]]] = (
        (inputs.events, [*inputs.user_from_events, *inputs.item_from_events], (data.user_id, data.item_id)),
        (inputs.items, inputs.item_from_table, (data.item_id,)),
        (inputs.users, inputs.user_from_table, (data.user_id,)),
    )
    found = [
        (table.sources[0].name, *marked)
        for table, features, ids in sides
        if table is not None
        for marked in find_markers(connection, table, list(dict.fromkeys([*ids, *(each.name for each in features)])))
    ]
    every = tuple(dict.fromkeys([*data.null_values, *(marker for _, _, marker, _ in found)]))
    for file, name, marker, share in found:
        yield (
            f"{file}: column {name!r}: {format_percent(share)} of the values are {marker!r}; if it means no value, set "
            f"data.null_values={every!r}"
        )


def find_markers(connection: Connection, table: Table, names: Sequence[str]) -> Iterator[tuple[str, str, float]]:
    """Yields column, marker and share of the rows of frequent markers of missing values in columns of text."""
    texts = [name for name in names if name in table.columns and table.columns[name].kind == "VARCHAR"]
    if not texts or not table.rows:
        return
    shortest, *_, longest = sorted(map(len, NULL_MARKERS))
    every = ", ".join(map(quote_literal, NULL_MARKERS))
    values = [table.columns[name].identifier for name in texts]
    # most texts are not as short; where a column has none, DuckDB knows it without looking at the rows
    short = [f"strlen({value}) BETWEEN {shortest} AND {longest}" for value in values]
    marked = [
        f"count(CASE WHEN {condition} THEN CASE WHEN {value} IN ({every}) THEN 1 END END)"
        for value, condition in zip(values, short, strict=True)
    ]
    counts = fetch_row(connection, f"SELECT {', '.join(marked)} FROM {table.name} WHERE {' OR '.join(short)}")
    for name, count in zip(texts, counts, strict=True):
        if count < FREQUENT_MARKER * table.rows:
            continue
        text = table.text(name)
        fields = ", ".join(f"count(*) FILTER ({text} = {quote_literal(marker)})" for marker in NULL_MARKERS)
        of_each = fetch_row(connection, f"SELECT {fields} FROM {table.name}")
        for marker, found in zip(NULL_MARKERS, of_each, strict=True):
            if found >= FREQUENT_MARKER * table.rows:
                yield name, marker, found / table.rows


def find_warnings(
    connection: Connection,
    config: ExperimentConfig,
    inputs: Inputs,
    rejected: Mapping[TableName, Sequence[Mapping[str, Any]]],
) -> list[str]:
    """Returns every warning of a preparation; `rejected` has the quarantine's entries by table."""
    found: list[str] = []
    for name, table in inputs.tables.items():
        found += find_file_warnings(config.data, name, table)
        found += describe_rejected(name, table, rejected[name])
    return [*found, *find_unmatched(connection, inputs), *find_marked(connection, config, inputs)]
