"""Finds the forms in which a log of texts writes booleans and whole numbers, and applies them to clients' values.

pandas writes `True` and `3.0` to a CSV file where JSON has `true` and `3`. Training hashes the log's texts unchanged. A
column in which every value has such a form keeps it in the bundle, and values from elsewhere are converted to it:
`true` becomes `True` and 3 becomes `3.0`, whether they are typed or text. Any other value stays unchanged. These are
clients' feature values, ids that they exclude or look up, blocked ids, and the tables that a refresh and a scoring
read. A text of tags has a form where each of its values has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from twotower_tf.config import ExperimentConfig, History, feature_columns, feature_name
from twotower_tf.prepare.schema import Inputs, Side
from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_table import Column, Table
from twotower_tf.tables.values import text_sql

CAPITALIZED, UPPER, POINT = "True", "TRUE", "3.0"  # the forms, each named by an example
_SPELLED = {CAPITALIZED: ("True", "False"), UPPER: ("TRUE", "FALSE")}
_PATTERNS = {CAPITALIZED: "(True|False)", UPPER: "(TRUE|FALSE)", POINT: "-?[0-9]+[.]0"}
_SAMPLE_ROWS = 10_000


def apply_form(text: str, form: str) -> str:
    """Writes a value's canonical text (`tables.values`) in a form; "" leaves it unchanged."""
    if form == POINT:
        return f"{text}.0" if re.fullmatch(r"-?[0-9]+", text) else text
    if form in _SPELLED and text in ("true", "false"):
        return _SPELLED[form][text == "false"]
    return text


def apply_form_sql(text: str, form: str, separator: str = "") -> str:
    """Returns SQL of `apply_form`, for each value of a text where a separator is given."""
    if not form:
        return text
    if separator:
        mark = quote_literal(separator)
        values = f"list_transform(string_split({text}, {mark}), lambda part: {apply_form_sql('trim(part)', form)})"
        return f"array_to_string({values}, {mark})"
    if form == POINT:
        return f"CASE WHEN regexp_full_match({text}, '-?[0-9]+') THEN {text} || '.0' ELSE {text} END"
    if form in _SPELLED:
        yes, no = _SPELLED[form]
        return f"CASE {text} WHEN 'true' THEN '{yes}' WHEN 'false' THEN '{no}' ELSE {text} END"
    return text


def rewrite_columns(
    connection: Connection, table: Table, forms: Mapping[str, str], separators: Mapping[str, str]
) -> None:
    """Rewrites the columns that a table has as texts in the `forms` of a log; "" leaves a column unchanged.

    `separators` are those of the columns whose texts have several values.
    """
    for name, form in forms.items():
        column = table.columns.get(name)
        if form and column is not None:
            separator = separators.get(name, "")
            text = apply_form_sql(text_sql(column.identifier, column.kind, separator), form, separator)
            connection.execute(f"ALTER TABLE {table.name} ALTER {column.identifier} TYPE VARCHAR USING {text}")
            table.columns[name] = Column(column.identifier, "VARCHAR")


def find_text_forms(connection: Connection, config: ExperimentConfig, inputs: Inputs, side: Side) -> dict[str, str]:
    """Finds the forms of a side's id, of its features that are hashed value by value, and of histories' items.

    Returns:
        form by the column's or history's name; those without a form are left out. Where two tables have an id or a
        column of items, its form is the same in both.
    """
    data, events = config.data, inputs.events
    table, features, id_column = {
        "user": (inputs.users, config.user_features, data.user_id),
        "item": (inputs.items, config.item_features, data.item_id),
    }[side]
    wanted = {id_column: (id_column, "", _list_having(id_column, events, table))}
    for feature in features:
        if isinstance(feature, History):
            target = next(each for each in config.item_features if feature_name(each) == feature.of)
            column = feature_columns(target)[0]
            wanted[feature.name] = (column, "", _list_having(column, events, inputs.items)[:1])
            continue
        for each in feature.inputs():
            if each.kind in ("text", "texts"):
                places = _list_having(each.name, events, table)
                wanted.setdefault(each.name, (each.name, each.separator, places[:1] if side == "user" else places))
    found: dict[str, set[str]] = {name: set() for name in wanted}
    for place in inputs.tables.values():
        here = {name: named[:2] for name, named in wanted.items() if place.name in named[2]}
        for name, form in _find_forms(connection, place, here).items():
            found[name].add(form)
    return {name: form for name, forms in found.items() if len(forms) == 1 and (form := min(forms))}


def _list_having(column: str, *tables: Table | None) -> list[str]:
    """Lists the names of the tables that have a column."""
    return [table.name for table in tables if table is not None and column in table.columns]


def _find_forms(connection: Connection, table: Table, columns: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Finds the form that every value of a column has, by name; "" where there is none.

    `columns` has the column and the separator of its values, "" for one value.
    """
    texts = {}
    for name, (column, separator) in columns.items():
        identifier, kind = table.columns[column].identifier, table.columns[column].kind
        if kind == "VARCHAR" or (kind == "VARCHAR[]" and separator):
            texts[name] = (text_sql(identifier, kind, separator), separator)
    possible = [(name, form) for name in texts for form in _PATTERNS]
    for rows, least in ((f"{table.name} WHERE rowid < {_SAMPLE_ROWS}", 0), (table.name, 1)):
        if possible:  # the first rows rule out most forms
            counts = [
                f"count({texts[name][0]}), count(*) FILTER ({_fits(*texts[name], form)})" for name, form in possible
            ]
            numbers = fetch_row(connection, f"SELECT {', '.join(counts)} FROM {rows}")
            fitting = zip(possible, numbers[::2], numbers[1::2], strict=True)
            possible = [pair for pair, present, fits in fitting if fits == present >= least]
    return dict.fromkeys(columns, "") | dict(reversed(possible))


def _fits(text: str, separator: str, form: str) -> str:
    """Returns SQL that tests whether a text's value, or each of its values, has a form."""
    pattern = _PATTERNS[form]
    if not separator:
        return f"regexp_full_match({text}, '{pattern}')"
    spaced = f"replace({text}, {quote_literal(separator)}, ' ')"
    return f"regexp_full_match({spaced}, ' *{pattern}( +{pattern})* *')"
