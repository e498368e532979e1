"""Reads the input tables and checks their columns against the configuration."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twotower_tf import sql
from twotower_tf.config import (
    DataConfig,
    DateSplit,
    ExperimentConfig,
    GivenSplit,
)
from twotower_tf.errors import DataError, unknown_name
from twotower_tf.prepare import date_split, unusable_tables
from twotower_tf.sql import Connection
from twotower_tf.tables import input_files, readers
from twotower_tf.tables.detect_format import detect_format
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.read_options import TableName, read_options
from twotower_tf.tables.values import number_sql, text_sql

Side = Literal["user", "item"]
SIDES: tuple[Side, ...] = ("user", "item")
TABLES: tuple[TableName, ...] = ("events", "items", "users")
# of the second in `last_event`, for a run that continues this one; the catalogue of a bundle does not have it
LAST_MICROSECOND = "last_event_microsecond"
RESERVED = ("item_id", "item_name", "train_count", "last_event", LAST_MICROSECOND)


@dataclass(frozen=True)
class FeatureColumn:
    """A source column of one side's features.

    Attributes:
        name: in the tables.
        kind: of the values in examples and catalogue, "text" or "number".
        separator: joins the elements where a table has lists.
    """

    name: str
    kind: Literal["text", "number"]
    separator: str = ""

    def sql(self, column: Column, alias: str = "") -> str:
        """Returns SQL for the value, typed by its kind; NULL for a missing value."""
        expression = f"{alias}.{column.identifier}" if alias else column.identifier
        if self.kind == "number":
            return number_sql(expression, column.kind)
        return text_sql(expression, column.kind, self.separator)

    def value(self, column: Column, alias: str = "") -> str:
        """Returns SQL for the same value in the table's view of typed values (`typed_values`)."""
        name = f"{column.identifier}_{self.kind}{self.separator.encode().hex()}"
        return f"{alias}.{name}" if alias else name


def list_feature_columns(config: ExperimentConfig, side: Side) -> list[FeatureColumn]:
    """Lists the source columns of a side's features, in the order of the configuration, without the event's time."""
    found: dict[str, FeatureColumn] = {}
    for feature in config.user_features if side == "user" else config.item_features:
        for each in feature.inputs():
            if each.kind != "time" and not each.keep_last:  # histories are made of other events
                kind: Literal["text", "number"] = "number" if each.kind == "number" else "text"
                found.setdefault(each.name, FeatureColumn(each.name, kind, each.separator or "|"))
    return list(found.values())


@dataclass(frozen=True)
class Inputs:
    """The input tables, and the features' columns by the table of their values.

    Attributes:
        events: the event log.
        items: the item table, or None.
        users: the user table, or None.
        user_from_events: user columns whose values the events have.
        user_from_table: user columns that only the user table has.
        item_from_events: item columns whose values the events have (without the id, which the catalogue has).
        item_from_table: item columns that only the item table has.
        item_as_of: those of both whose values change with time; the others are read from the catalogue.
        keys: optional key columns of the examples.
        item_others: types of the item table's columns that are not features, by name.
        continued: whether this run continues a previous one, which has values of its users.
    """

    events: Table
    items: Table | None
    users: Table | None
    user_from_events: tuple[FeatureColumn, ...]
    user_from_table: tuple[FeatureColumn, ...]
    item_from_events: tuple[FeatureColumn, ...]
    item_from_table: tuple[FeatureColumn, ...]
    item_as_of: tuple[FeatureColumn, ...] = ()
    keys: tuple[str, ...] = ()
    continued: bool = False
    item_others: Mapping[str, str] = dataclasses.field(default_factory=dict)


def list_expressions(data: DataConfig) -> dict[str, str]:
    """Lists the user-written SQL expressions over the log's columns, by field."""
    written = {"positive": data.positive, "rejected": data.rejected, "exclude": data.exclude, "weight": data.weight}
    return {field: text for field, text in written.items() if text}


def find_referenced_columns(data: DataConfig) -> list[str]:
    """Finds the columns of `list_expressions`, as spelled there; an invalid expression has none."""
    found: list[str] = []
    for field, text in list_expressions(data).items():
        with contextlib.suppress(DataError):  # reported with all other faults (see `UserExpressions.faults`)
            found += sql.find_columns(text, f"data.{field}")
    return list(dict.fromkeys(found))


def list_key_columns(data: DataConfig) -> tuple[str, ...]:
    """Lists the optional key columns that the configuration adds to the examples (see `list_expressions`)."""
    named = {"rejected": data.rejected, "weight": data.weight, "list": data.list_id, "position": data.position}
    return tuple(name for name, value in named.items() if value)


def select_event_columns(config: ExperimentConfig) -> Wanted:
    """Returns a predicate of the names of the columns that are read from the log."""
    named = _named_columns(config)
    written = {name.lower() for name in find_referenced_columns(config.data)}  # SQL ignores case
    return lambda name: name in named or name.lower() in written


def find_table(data: DataConfig, table: TableName) -> list[input_files.InputFile]:
    """Finds the files of one of the configuration's tables; none where it has no such table.

    Of a log in `dt=` directories a `DateSplit` reads those within its window only.

    Raises:
        DataError: see `input_files.find_files`.
    """
    pattern: str = getattr(data, table)
    if not pattern:
        return []
    sources = input_files.find_files(Path(data.root), pattern, f"data.{table}", read_options(data, table))
    return (
        date_split.select_files(data.split, sources)
        if table == "events" and isinstance(data.split, DateSplit)
        else sources
    )


def load_tables(
    connection: Connection, config: ExperimentConfig, sources: Mapping[str, Sequence[input_files.InputFile]]
) -> Inputs:
    """Reads the tables and checks that every column the configuration names is there.

    Args:
        connection: that they are read into.
        config: the experiment.
        sources: files by table; none where the configuration has no such table.

    Raises:
        DataError: for a missing or unreadable file, an empty table, or a missing column.
    """
    data = config.data
    events = readers.read_table(connection, "events", sources["events"], select_event_columns(config))
    for error in find_unreadable(connection, data, "events", events):
        raise DataError(error)
    items = read_side_table(connection, config, "items", sources["items"]) if data.items else None
    users = read_side_table(connection, config, "users", sources["users"]) if data.users else None
    sides: tuple[tuple[TableName, Table | None], ...] = (("items", items), ("users", users))
    for name, table in sides:
        for error in find_unreadable(connection, data, name, table):
            raise DataError(error)
    for misfit in find_mismatches(config, events, items, users):
        raise DataError(misfit)
    from_events, from_table = divide_columns(config, "user", events, users)
    item_from_events, item_from_table = divide_columns(config, "item", events, items)
    as_of = (*item_from_events, *(item_from_table if data.items_time else ())) if data.timestamp else ()
    keys = list_key_columns(data)
    return Inputs(events, items, users, from_events, from_table, item_from_events, item_from_table, as_of, keys)


def read_side_table(
    connection: Connection,
    config: ExperimentConfig,
    name: Literal["items", "users"],
    sources: Sequence[input_files.InputFile],
) -> Table:
    """Reads the item or the user table; its column of ids gets the name that the events use.

    Raises:
        DataError: for a file that cannot be read.
    """
    data = config.data
    if name == "items":
        table = readers.read_table(connection, "item_table", sources, lambda column: True)
        rename_key(table, data.items_id, data.item_id)
        return table
    wanted = {data.user_id, data.users_id, data.users_time, data.timestamp}
    wanted |= {column.name for column in list_feature_columns(config, "user")}
    table = readers.read_table(connection, "user_table", sources, wanted.__contains__)
    rename_key(table, data.users_id, data.user_id)
    return table


def rename_key(table: Table, key: str, name: str) -> None:
    """Gives the column of ids of a side table the name that the events use; a table without it is left as it is."""
    if key and key != name and key in table.known:
        table.rename(key, name)


def find_unreadable(connection: Connection, data: DataConfig, name: TableName, table: Table | None) -> Iterator[str]:
    """Yields the error of a table without rows, or of which no row can be read."""
    if table is not None:
        yield from unusable_tables.find_empty(data, name, table)
        yield from unusable_tables.find_unusable(connection, name, table)


def _named_columns(config: ExperimentConfig) -> set[str]:
    data = config.data
    names = {data.user_id, data.item_id, data.timestamp, data.label, data.item_name, data.list_id, data.position}
    if isinstance(data.split, GivenSplit):
        names.add(data.split.column)
    if isinstance(data.split, DateSplit) and not data.timestamp:
        names.add(date_split.PARTITION)
    for side in SIDES:
        names |= {column.name for column in list_feature_columns(config, side)}
    return names - {""}


def find_mismatches(config: ExperimentConfig, events: Table, items: Table | None, users: Table | None) -> Iterator[str]:
    """Yields the columns that the configuration names and the tables do not have, one line each."""
    data = config.data
    reported = {name for name in list_required_columns(config).values() if name not in events.known}
    for field, name in list_required_columns(config).items():
        if name in reported:
            yield _missing(field, name, events)
        elif name in events.lacking:
            yield f"{field}: {events.lacking[name].name} has no column {name!r}, unlike other files of data.events"
    for name, table in (("item", items), ("user", users)):
        own, shared = getattr(data, f"{name}s_id"), getattr(data, f"{name}_id")
        if table is not None and shared not in table.known:
            yield _missing(f"data.{name}s_id" if own else f"data.{name}_id", own or shared, table)
    for field, table in (("items_time", items), ("users_time", users)):
        name = getattr(data, field)
        if name and table is not None and name not in table.known:
            yield _missing(f"data.{field}", name, table)
    if data.item_name and data.item_name not in events.known and (items is None or data.item_name not in items.known):
        yield _missing("data.item_name", data.item_name, items or events)
    for column in list_feature_columns(config, "item"):
        meaning = {"item_id": data.item_id, "item_name": data.item_name}.get(column.name)
        if column.name in RESERVED and column.name != meaning:
            yield f"item_features: column {column.name!r} has the name of a catalogue column; rename it"
    for side, table in zip(SIDES, (users, items), strict=True):
        for column in list_feature_columns(config, side):
            if (side == "item" and column.name == data.item_id) or column.name in (*events.known, *reported):
                continue
            if table is None or column.name not in table.known:
                both = events.known + (table.known if table else [])
                where = events.sources[0].name + (f" and {table.sources[0].name}" if table else "")
                yield f"{side}_features: {unknown_name(f'column in {where}', column.name, both)}"

    yield from _nested(config, events, items, users)
    yield from _unknown_attributes(config, items)


def _nested(config: ExperimentConfig, events: Table, items: Table | None, users: Table | None) -> Iterator[str]:
    """Yields columns of features and ids whose values are neither scalars nor lists of scalars."""
    data = config.data
    for field, table, names in (
        ("data.user_id", users or events, [data.user_id]),
        ("data.item_id", items or events, [data.item_id]),
        *((f"{side}_features", events, [each.name for each in list_feature_columns(config, side)]) for side in SIDES),
        ("user_features", users, [each.name for each in list_feature_columns(config, "user")]),
        ("item_features", items, [each.name for each in list_feature_columns(config, "item")]),
    ):
        for name in names if table is not None else ():
            kind = table.columns[name].kind if table is not None and name in table.columns else ""
            if kind.startswith(("STRUCT", "MAP", "UNION")) or "[]" in kind.removesuffix("[]") or kind.endswith(")[]"):
                where = table.sources[0].name if table is not None else ""
                yield f"{field}: column {name!r} in {where}: invalid type {kind} (expected a value or a list of values)"


def _unknown_attributes(config: ExperimentConfig, items: Table | None) -> Iterator[str]:
    """Yields columns of SameAttribute that the catalogue will not have; the configuration checks logs without items."""
    columns = {column.name for column in list_feature_columns(config, "item")} | set(items.known if items else ())
    for each in (config.sampling.negatives or ()) if items is not None else ():
        for name in each.columns if each.type == "SameAttribute" else ():
            if name not in columns | {*RESERVED}:
                known = unknown_name("column of the catalogue", name, columns)
                yield f"sampling.negatives: SameAttribute: {known}"


def list_required_columns(config: ExperimentConfig) -> dict[str, str]:
    """Lists the columns that every file of the log must have, by the field that names them."""
    data = config.data
    names = {"data.user_id": data.user_id, "data.item_id": data.item_id}
    names |= {"data.timestamp": data.timestamp, "data.label": data.label}
    names |= {"data.list_id": data.list_id, "data.position": data.position}
    if isinstance(data.split, GivenSplit):
        names["data.split.column"] = data.split.column
    return {field: name for field, name in names.items() if name}


def _missing(field: str, name: str, table: Table) -> str:
    return f"{field}: {unknown_name(f'column in {table.sources[0].name}', name, table.known)}{_hint(table)}"


def _hint(table: Table) -> str:
    """Returns a hint for a header without any of the expected names."""
    source = table.sources[0]
    if source.suffix not in input_files.DELIMITERS or source.columns:
        return ""
    names = [name for name in table.known if not any(name == key for key, _ in source.partition)]
    found = detect_format(source)
    if found.lists:
        return f"; {found.reason}: convert the file with `twotower dataset lists --source={source.path}`"
    if found.reason:
        return f"; {found.reason}: name the columns in data.columns, data.item_columns, data.user_columns"
    return "; the header is a single column: set data.delimiter" if len(names) == 1 else ""


def divide_columns(
    config: ExperimentConfig, side: Side, events: Table, table: Table | None
) -> tuple[tuple[FeatureColumn, ...], tuple[FeatureColumn, ...]]:
    """Divides a side's source columns into those of the events, and those that only the side's table has."""
    in_events, in_table = [], []
    for column in list_feature_columns(config, side):
        if side == "item" and column.name == config.data.item_id:
            continue  # the catalogue has it
        if column.name in events.known:
            in_events.append(column)
        elif table is not None:
            in_table.append(column)
    return tuple(in_events), tuple(in_table)
