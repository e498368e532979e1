"""Creates views of the input tables with typed values: later steps join these, and no column as the files have it.

A view `{table}_values` has `place`, a row's place in the input, and the values of features, of the item's name, and of
the item table's other columns, which the catalogue has for filters. On a cluster a view is computed once, file by file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from twotower_tf.config import ExperimentConfig
from twotower_tf.prepare import user_sql
from twotower_tf.prepare.schema import RESERVED, FeatureColumn, Inputs, list_feature_columns
from twotower_tf.sql import Connection
from twotower_tf.tables.input_table import Column, Table


def create_typed_values(
    connection: Connection, config: ExperimentConfig, inputs: Inputs, previous: Mapping[str, Column] | None = None
) -> Inputs:
    """Creates the views; returns the inputs with the types of the item table's other columns.

    One whose type in `previous`, the columns of `previous_items`, is incompatible becomes text.
    """
    user, item = list_feature_columns(config, "user"), list_feature_columns(config, "item")
    named = [FeatureColumn(config.data.item_name, "text")] if config.data.item_name else []
    _create_view(connection, inputs.events, [*user, *item, *named])
    if inputs.users is not None:
        _create_view(connection, inputs.users, user)
    if inputs.items is None:
        return inputs
    taken = {config.data.item_id, *RESERVED, *(column.name for column in item)}
    kinds = user_sql.infer_types(connection, inputs.items, [name for name in inputs.items.columns if name not in taken])
    if previous is not None:
        kinds |= {name: "VARCHAR" for name, kind in kinds.items() if _is_incompatible(previous.get(name), kind)}
    others = {
        other_value(column): user_sql.cast_column(inputs.items, name, kinds[name])
        for name, column in inputs.items.columns.items()
        if name in kinds
    }
    _create_view(connection, inputs.items, [*item, *named], others)
    return dataclasses.replace(inputs, item_others=kinds)


def other_value(column: Column, alias: str = "") -> str:
    """Returns SQL of a value of the item table's other columns, in the view."""
    name = f"{column.identifier}_other"
    return f"{alias}.{name}" if alias else name


def _create_view(
    connection: Connection, table: Table, columns: Iterable[FeatureColumn], others: Mapping[str, str] | None = None
) -> None:
    values = {
        each.value(table.columns[each.name]): each.sql(table.columns[each.name])
        for each in columns
        if each.name in table.columns
    }
    selected = "".join(f", {value} AS {name}" for name, value in (values | dict(others or {})).items())
    connection.execute(f"CREATE VIEW {table.name}_values AS SELECT rowid AS place{selected} FROM {table.name}")


def _is_incompatible(previous: Column | None, kind: str) -> bool:
    """Tests whether the previous type of a column's values is incompatible with the present one."""
    return previous is not None and previous.kind != kind and {previous.kind, kind} != {"BIGINT", "DOUBLE"}
