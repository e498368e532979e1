"""Finds the columns of a user table that the user tower reads, and checks their types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import pyarrow as pa

from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ConfigError, DataError, unknown_name
from twotower_tf.features.inputs import HISTORY_SEPARATOR, client_inputs
from twotower_tf.tables.input_files import DELIMITERS, InputFile
from twotower_tf.tables.readers import parquet

Role = Literal["text", "number", "time", "tags", "history", "times"]

_EXPECTED = {
    "text": "one value",
    "number": "a number",
    "time": "a time",
    "tags": "one text or a list of texts",
    "history": "a list of item ids",
    "times": "a list of times",
}


@dataclass(frozen=True)
class Column:
    """A column that scoring reads.

    Attributes:
        name: in the table.
        role: what becomes of its values.
        separator: of the values of one text; joins the elements where a table has lists.
        form: how the log writes booleans and whole numbers, of `data.text_forms`.
        times_of: of "times", the history whose items have these times.
    """

    name: str
    role: Role
    separator: str = ""
    form: str = ""
    times_of: str = ""


def list_feature_columns(
    config: ExperimentConfig, forms: Mapping[str, str] = MappingProxyType({})
) -> tuple[Column, ...]:
    """Returns the source columns of the user features, with histories."""
    found = []
    for each in client_inputs(config, forms):
        if each.kind == "texts":
            role: Role = "history" if each.keep_last else "tags"
            found.append(Column(each.name, role, each.separator or HISTORY_SEPARATOR, each.form))
        elif each.kind == "times":
            found.append(Column(each.name, each.kind, HISTORY_SEPARATOR, times_of=each.times_of))
        else:
            found.append(Column(each.name, each.kind, form=each.form))
    return tuple(found)


def find_columns(
    config: ExperimentConfig,
    known: Sequence[tuple[InputFile, Collection[str]]],
    absent: Collection[str],
    forms: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Column, ...]:
    """Returns the feature columns that a table has.

    Columns in `absent` may be lacking: they have no value. So may a time in all files: it is that of the scoring.
    `known` has the names of the columns, file by file; `forms` are the bundle's, see `data.text_forms`.

    Raises:
        ConfigError: for a name in `absent` that no feature reads.
        DataError: for a column that a file lacks, naming both, with the nearest name.
    """
    wanted = list_feature_columns(config, forms)
    read = [column.name for column in wanted]
    for name in absent:
        if name not in read:
            raise ConfigError(f"--absent: {unknown_name('user feature column', name, read)}")
    for source, names in known:
        if config.data.user_id not in names:
            field = "users_id" if config.data.users_id else "user_id"
            raise DataError(f"data.{field}: {_lacks(getattr(config.data, field), source, names)}")
    found, missing = [], []
    for column in wanted:
        lacking = [(source, names) for source, names in known if column.name not in names]
        if len(lacking) < len(known):
            found.append(column)
        if lacking and column.name not in absent and not (column.role == "time" and len(lacking) == len(known)):
            missing.append((column, *lacking[0]))
    if missing:
        column, source, names = missing[0]
        remedy = f"--absent={','.join(each[0].name for each in missing)} scores without"
        if any(each[0].role == "history" for each in missing):
            remedy += "; --users_from_events builds histories from a prepared log"
        raise DataError(f"user_features: {_lacks(column.name, source, names)} ({remedy})")
    return tuple(found)


def find_renamed(config: ExperimentConfig) -> dict[str, str]:
    """Returns the names under which columns of user tables are read, by their own: the log's name of the user id."""
    data = config.data
    return {data.users_id: data.user_id} if data.users_id not in ("", data.user_id) else {}


def rename_columns(names: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Renames columns, in the place of those that have the new names: these become ""."""
    taken = {renamed[name] for name in names if name in renamed}
    return [renamed.get(name, "" if name in taken else name) for name in names]


def _lacks(name: str, source: InputFile, names: Collection[str]) -> str:
    """Formats the error of a file that lacks a column, with the likely cause."""
    partition = [key for key, _ in source.partition]
    own = [each for each in names if each not in partition]
    problem = unknown_name(f"column in {source.name}", name, names)
    if source.suffix in DELIMITERS and len(own) == 1 and any(mark in own[0] for mark in ",;|\t"):
        return f"{problem}; its header is the single column {own[0]!r}: the separator is not the one of data.delimiter"
    return problem


def check_types(
    columns: Sequence[Column],
    user_id: str,
    sources: Sequence[InputFile],
    schemas: Sequence[pa.Schema],
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Checks that the types of Parquet columns can hold the values that the model reads.

    Raises:
        DataError: naming the file, the column, its type and what is expected.
    """
    roles: dict[str, Role] = {user_id: "text", **{column.name: column.role for column in columns}}
    for _, misfit in parquet.find_type_conflicts(sources, schemas, {*roles, *renamed}.__contains__):
        raise DataError(misfit)
    for source, schema in zip(sources, schemas, strict=True):
        for read_as, name, kind in zip(rename_columns(schema.names, renamed), schema.names, schema.types, strict=True):
            role = roles.get(read_as)
            if role is not None and not _fits(role, kind):
                raise DataError(f"{source.name}: column {name!r}: invalid type {kind} (expected {_EXPECTED[role]})")


def _fits(role: Role, kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _fits(role, kind.value_type)
    if types.is_null(kind):
        return True
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind)
    if role == "number":
        return bool(number)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return role in ("tags", "history", "times") and not types.is_nested(kind.value_type)
    if role == "times":
        return is_text(kind)
    if role == "time":
        return bool(number or types.is_timestamp(kind) or types.is_date(kind) or is_text(kind))
    if role == "history":
        return is_text(kind)
    return not types.is_nested(kind)


def is_text(kind: pa.DataType) -> bool:
    """Returns whether values of this Arrow type are texts."""
    types = pa.types
    text = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(is_kind(kind) for is_kind in text)
