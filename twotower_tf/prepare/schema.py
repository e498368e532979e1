"""Reads the input tables and checks their columns against the configuration."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from twotower_tf import sql
from twotower_tf.config import (
    DataConfig,
    DateSplit,
    ExperimentConfig,
    GivenSplit,
)
from twotower_tf.errors import DataError, raise_first, unknown_name
from twotower_tf.prepare import date_split, unusable_tables
from twotower_tf.sql import Connection
from twotower_tf.tables import input_files, readers
from twotower_tf.tables.detect_format import detect_format
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.read_options import TableName, read_options
from twotower_tf.tables.values import is_nested, number_sql, text_sql

Side = Literal["user", "item"]
SIDES: tuple[Side, ...] = ("user", "item")
TABLES: tuple[TableName, ...] = ("events", "items", "users")
SIDE_TABLES: Mapping[Side, TableName] = MappingProxyType({"item": "items", "user": "users"})
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
            if each.is_column:  # histories are made of other events
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
        user_id: the column of users' ids.
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
    user_id: str = ""

    @classmethod
    def of(cls, config: ExperimentConfig, tables: Mapping[TableName, Table], *, continued: bool = False) -> Inputs:
        """Divides the features' columns over the tables that were read."""
        events, items, users = (tables.get(name) for name in TABLES)
        assert events is not None
        of_user = _divide_columns(config, "user", events, users)
        of_item = _divide_columns(config, "item", events, items)
        as_of = (*of_item[0], *(of_item[1] if config.data.items_time else ())) if config.data.timestamp else ()
        keys = list_key_columns(config.data)
        return cls(events, items, users, *of_user, *of_item, as_of, keys, continued, user_id=config.data.user_id)

    @property
    def user_as_of(self) -> list[FeatureColumn]:
        """The columns of `user_from_events` whose values differ between events of a user: all but the id."""
        return [column for column in self.user_from_events if column.name != self.user_id]

    @property
    def tables(self) -> dict[TableName, Table]:
        """The tables that there are."""
        found = zip(TABLES, (self.events, self.items, self.users), strict=True)
        return {name: table for name, table in found if table is not None}

    @property
    def side_tables(self) -> dict[TableName, Table]:
        """The item and the user table, where there are such."""
        return {name: table for name, table in self.tables.items() if name != "events"}


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
    named = _list_named_columns(config)
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
    connection: Connection,
    config: ExperimentConfig,
    sources: Mapping[TableName, Sequence[input_files.InputFile]],
    *,
    continued: bool,
) -> Inputs:
    """Reads the tables and checks that every column the configuration names is there.

    `continued` says whether the run continues a previous one.

    Raises:
        DataError: for a missing or unreadable file, an empty table, or a missing column.
    """
    tables = read_tables(connection, config, sources)
    for name, table in tables.items():
        raise_first(unusable_tables.find_unreadable(connection, config.data, name, table))
    raise_first(find_mismatches(config, tables))
    return Inputs.of(config, tables, continued=continued)


def read_tables(
    connection: Connection, config: ExperimentConfig, sources: Mapping[TableName, Sequence[input_files.InputFile]]
) -> dict[TableName, Table]:
    """Reads the tables of which there are files.

    Raises:
        DataError: for a file that cannot be read.
    """
    wanted = select_event_columns(config)
    found: dict[TableName, Table] = {"events": readers.read_table(connection, "events", sources["events"], wanted)}
    for name in SIDE_TABLES.values():
        if sources[name]:
            found[name] = read_side_table(connection, config, name, sources[name])
    return found


def read_side_table(
    connection: Connection, config: ExperimentConfig, name: TableName, sources: Sequence[input_files.InputFile]
) -> Table:
    """Reads the item or the user table; its column of ids gets the name that the events use.

    Raises:
        DataError: for a file that cannot be read.
    """
    data, side = config.data, name[:-1]
    of_users = {column.name for column in list_feature_columns(config, "user")}
    of_users |= {data.user_id, data.users_id, data.users_time, data.timestamp}
    # the catalogue has every column of the items
    table = readers.read_table(
        connection, f"{side}_table", sources, lambda column: name == "items" or column in of_users
    )
    table.rename_key(getattr(data, f"{name}_id"), getattr(data, f"{side}_id"))
    return table


def _list_named_columns(config: ExperimentConfig) -> set[str]:
    data = config.data
    names = {data.user_id, data.item_id, data.timestamp, data.label, data.item_name, data.list_id, data.position}
    if isinstance(data.split, GivenSplit):
        names.add(data.split.column)
    if isinstance(data.split, DateSplit) and not data.timestamp:
        names.add(date_split.PARTITION)
    for side in SIDES:
        names |= {column.name for column in list_feature_columns(config, side)}
    return names - {""}


def find_mismatches(config: ExperimentConfig, tables: Mapping[TableName, Table]) -> Iterator[str]:
    """Yields the columns that the configuration names and the tables do not have, one line each."""
    data, events = config.data, tables["events"]
    required = list_required_columns(config)
    reported = {name for name in required.values() if name not in events.known}
    for field, name in required.items():
        if name in reported:
            yield _describe_missing(field, name, events)
        elif name in events.lacking:
            yield describe_lacking(field, events.lacking[name].name, name)
    for side, table_name in SIDE_TABLES.items():
        if table := tables.get(table_name):
            own, shared = getattr(data, f"{table_name}_id"), getattr(data, f"{side}_id")
            since = getattr(data, f"{table_name}_time")
            if shared not in table.known:
                yield _describe_missing(f"data.{table_name}_id" if own else f"data.{side}_id", own or shared, table)
            if since and since not in table.known:
                yield _describe_missing(f"data.{table_name}_time", since, table)
    titled = [table for name, table in tables.items() if name != "users"]
    if data.item_name and not any(data.item_name in table.known for table in titled):
        yield _describe_missing("data.item_name", data.item_name, titled[-1])
    for column in list_feature_columns(config, "item"):
        meaning = {"item_id": data.item_id, "item_name": data.item_name}.get(column.name)
        if column.name in RESERVED and column.name != meaning:
            yield f"item_features: column {column.name!r} has the name of a catalogue column; rename it"
    for side in SIDES:
        places = [events, *filter(None, [tables.get(SIDE_TABLES[side])])]
        known = [name for table in places for name in table.known]
        for column in list_feature_columns(config, side):
            if column.name not in {*known, *reported} and (side, column.name) != ("item", data.item_id):
                where = " and ".join(table.sources[0].name for table in places)
                yield f"{side}_features: {unknown_name(f'column in {where}', column.name, known)}"
    yield from _find_nested(config, tables)
    yield from _find_unknown_attributes(config, tables.get("items"))


def _find_nested(config: ExperimentConfig, tables: Mapping[TableName, Table]) -> Iterator[str]:
    """Yields columns of features and ids whose values are neither scalars nor lists of scalars."""
    for side in SIDES:
        tables_of_side = [tables["events"], *filter(None, [tables.get(SIDE_TABLES[side])])]
        names = [column.name for column in list_feature_columns(config, side)]
        checked = [(f"data.{side}_id", getattr(config.data, f"{side}_id"), tables_of_side[-1])]
        checked += [(f"{side}_features", name, table) for table in tables_of_side for name in names]
        for field, name, table in checked:
            kind = table.columns[name].kind if name in table.columns else ""
            if is_nested(kind):
                where = table.sources[0].name
                yield f"{field}: column {name!r} in {where}: invalid type {kind} (expected a value or a list of values)"


def _find_unknown_attributes(config: ExperimentConfig, items: Table | None) -> Iterator[str]:
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


def _describe_missing(field: str, name: str, table: Table) -> str:
    return f"{field}: {unknown_name(f'column in {table.sources[0].name}', name, table.known)}{_suggest_header(table)}"


def _suggest_header(table: Table) -> str:
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


def _divide_columns(
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


def describe_lacking(field: str, file: str, column: str) -> str:
    """Describes a file of the log without a column that other files have."""
    return (
        f"{field}: {file} has no column {column!r}, unlike other files of data.events; if it is another table, name "
        "the log's files alone"
    )
