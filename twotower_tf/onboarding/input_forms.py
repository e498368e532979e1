"""Finds the files of a user's tables and how they are written, for a proposed configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from twotower_tf.config import TextFormat
from twotower_tf.errors import DataError
from twotower_tf.number_texts import format_percent
from twotower_tf.onboarding.feature_lines import Line
from twotower_tf.prepare.schema import TABLES
from twotower_tf.tables import detect_format, input_files
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.read_options import ReadOptions, TableName
from twotower_tf.tables.values import python_literal

COLUMN_FLAGS: Mapping[TableName, str] = {"events": "columns", "items": "item_columns", "users": "user_columns"}
_FORMATS: Mapping[TableName, str] = {"events": "", "items": "item_format", "users": "user_format"}
_EXAMPLES = {
    "events": ("user_id", "item_id", "rating", "timestamp"),
    "items": ("item_id", "title", "category"),
    "users": ("user_id", "gender", "age"),
}
_LISTED = 10  # columns named in a message
_SHOWN = 60  # characters of a file's first line in a message


@dataclass
class InputForms:
    """The tables' files, with the options to read them, and lines of the configuration by field of `DataConfig`."""

    sources: dict[TableName, list[InputFile]] = field(default_factory=dict)
    fields: dict[str, Line] = field(default_factory=dict)


def find_inputs(root: str, paths: Mapping[str, str], given: Mapping[str, str]) -> InputForms:
    """Finds the tables' files, and detects how they are written.

    Args:
        root: directory that the paths are relative to.
        paths: of the tables.
        given: `columns`, `item_columns` and `user_columns`, names joined by commas, and `delimiter`.

    Raises:
        DataError: for a missing file, and one without a header line whose columns are not named.
    """
    forms = InputForms()
    detected: dict[TableName, ReadOptions] = {}
    markers: dict[str, str] = {}
    for name in TABLES:
        if not paths.get(name):
            continue
        columns = tuple(each.strip() for each in given.get(COLUMN_FLAGS[name], "").split(",") if each.strip())
        options = ReadOptions(columns, TextFormat(delimiter=given.get("delimiter", "")))
        sources = input_files.find_files(Path(root), paths[name], f"--{name}", options)
        found = detect_format.detect_format(sources[0])
        if found.lists:
            raise DataError(
                f"--{name}: {sources[0].name}: lists of several items in a line (expected one row per event or id); "
                f"convert them with `twotower dataset lists --source={sources[0].path} --output=...`"
            )
        if not columns and not found.header:
            raise DataError(_explain_columns(name, sources[0], found))
        if columns:
            code = f"({', '.join(map(python_literal, columns))},)"
            forms.fields[COLUMN_FLAGS[name]] = Line(code, "the file has no header line")
        heads = columns or found.first
        for marker, place, share in found.markers:
            where = heads[place] if place < len(heads) else "a column"
            markers.setdefault(marker, f"{marker!r} has {format_percent(share)} of {where!r}")
        forms.sources[name], detected[name] = sources, found.options
    if markers:
        code = f"({', '.join(map(python_literal, markers))},)"
        forms.fields["null_values"] = Line(code, f"no value: {'; '.join(markers.values())}")
    for name, options in detected.items():
        read = replace(options, null_values=tuple(markers))
        forms.sources[name] = [replace(source, options=read) for source in forms.sources[name]]
    forms.fields |= _list_formats({name: options.text for name, options in detected.items()})
    return forms


def _list_formats(texts: Mapping[TableName, TextFormat]) -> dict[str, Line]:
    """Lists the fields of the tables' text formats: the log's, and those of tables that differ."""
    found = {}
    shared = texts["events"]
    for name, value in _list_differences(shared).items():
        found[name] = Line(python_literal(value), "of the event log's text")
    for table, text in texts.items():
        if table != "events" and text != shared:
            arguments = [f"{name}={python_literal(value)}" for name, value in _list_differences(text).items()]
            found[_FORMATS[table]] = Line(f"TextFormat({', '.join(arguments)})", "other than the log's")
    return found


def _list_differences(text: TextFormat) -> dict[str, str]:
    """Lists the marks of a format that are not the usual ones."""
    usual, names = TextFormat(), ("delimiter", "quote", "escape", "encoding", "decimal")
    found = {name: getattr(text, name) for name in names if getattr(text, name) != getattr(usual, name)}
    return {name: value.replace("\t", "\\t") for name, value in found.items()}


def _explain_columns(name: TableName, source: InputFile, found: detect_format.DetectedFormat) -> str:
    """Explains that a file has no header line, and how to name its columns."""
    flag, count = COLUMN_FLAGS[name], len(found.first)
    line = (found.options.delimiter or input_files.DELIMITERS[source.suffix]).join(found.first)
    names = [*_EXAMPLES[name][:count], *(f"column_{place}" for place in range(len(_EXAMPLES[name]) + 1, count + 1))]
    if count > _LISTED:
        names[_LISTED - 1 : -1] = ["..."]
    return (
        f"--{name}: {source.name}: no header line ({found.reason}); name its {count} columns in order, e.g. "
        f"--{flag}={','.join(names)} for {line[:_SHOWN]!r}"
    )
