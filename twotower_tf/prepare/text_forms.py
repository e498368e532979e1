"""Finds the forms in which a log of texts writes booleans and whole numbers, and applies them to clients' values.

pandas writes `True` and `3.0` to a CSV file where JSON has `true` and `3`. Training hashes the log's texts unchanged. A
column in which every value has such a form keeps it in the bundle, and clients' values are converted to it: `true`
becomes `True` and 3 becomes `3.0`, whether they are typed or text. Any other value stays unchanged.
"""

from __future__ import annotations

import re

import duckdb

from twotower_tf.config import ExperimentConfig, History, feature_columns, feature_name
from twotower_tf.prepare.schema import Inputs
from twotower_tf.sql import quote_literal
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_table import Table

CAPITALIZED, UPPER, POINT = "True", "TRUE", "3.0"  # the forms, each named by an example
_SPELLED = {CAPITALIZED: ("True", "False"), UPPER: ("TRUE", "FALSE")}
_SAMPLE_ROWS = 10_000


def apply_form(text: str, form: str) -> str:
    """Writes a value's canonical text (`tables.values`) in a form; "" leaves it unchanged."""
    if form == POINT:
        return f"{text}.0" if re.fullmatch(r"-?[0-9]+", text) else text
    if form in _SPELLED and text in ("true", "false"):
        return _SPELLED[form][text == "false"]
    return text


def apply_form_sql(text: str, form: str) -> str:
    """Returns SQL of `apply_form`."""
    if form == POINT:
        return f"CASE WHEN regexp_full_match({text}, '-?[0-9]+') THEN {text} || '.0' ELSE {text} END"
    if form in _SPELLED:
        yes, no = _SPELLED[form]
        return f"CASE {text} WHEN 'true' THEN '{yes}' WHEN 'false' THEN '{no}' ELSE {text} END"
    return text


def find_text_forms(connection: duckdb.DuckDBPyConnection, config: ExperimentConfig, inputs: Inputs) -> dict[str, str]:
    """Finds the forms of the user tower's inputs that are hashed value by value, and of histories' items.

    Returns:
        form by the input's name; inputs without a form are left out.
    """
    wanted: dict[str, tuple[Table | None, str]] = {}
    for feature in config.user_features:
        wanted |= {each.name: (inputs.users, each.name) for each in feature.inputs() if each.kind == "text"}
        if isinstance(feature, History):
            target = next(each for each in config.item_features if feature_name(each) == feature.of)
            wanted[feature.name] = (inputs.items, feature_columns(target)[0])
    found = {}
    for name, (table, column) in wanted.items():
        source = inputs.events if column in inputs.events.columns else table
        if source is not None and (form := _form(connection, source, column)):
            found[name] = form
    return found


def _form(connection: duckdb.DuckDBPyConnection, table: Table, column: str) -> str:
    """Finds the form that every value of a column has; "" where there is none."""
    if table.columns[column].kind != "VARCHAR":
        return ""
    text = table.text(column)
    tests = {form: f"{text} IN ({', '.join(map(quote_literal, words))})" for form, words in _SPELLED.items()}
    tests[POINT] = f"regexp_full_match({text}, '-?[0-9]+[.]0')"
    candidates = list(tests)
    for rows in (f"{table.name} WHERE rowid < {_SAMPLE_ROWS}", table.name):  # the sample decides for most columns
        counts = ", ".join(f"count(*) FILTER ({tests[form]})" for form in candidates)
        present, *fitting = fetch_row(connection, f"SELECT count({text}), {counts} FROM {rows}")
        candidates = [form for form, count in zip(candidates, fitting, strict=True) if count == present]
        if not candidates:
            return ""
    return candidates[0] if present else ""
