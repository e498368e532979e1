"""Computes the changes of a bundle's catalogue by a table of items and a list of ids to delete.

The table is read as `prepare` reads DataConfig.items: any format, an item's latest row, malformed rows set aside with
file and line. Every source column of the item features has to be there, so that no vector is made of values that were
left out. Other columns that the table lacks keep their values.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf import characters
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError, raise_first, unknown_name
from twotower_tf.index.index_files import NEW
from twotower_tf.prepare import catalogue, row_rules, text_forms, user_sql
from twotower_tf.prepare.schema import RESERVED, FeatureColumn, Inputs, list_feature_columns, read_side_table
from twotower_tf.sql import Connection, quote_identifier
from twotower_tf.tables import duckdb_engine, input_files, quarantine
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.read_options import read_options

Mode = Literal["upsert", "replace"]
Rows = npt.NDArray[np.int64]

_FIELD = "--items"
_NAMED = 3


@dataclass(frozen=True)
class Listing:
    """A table of items that was read.

    Attributes:
        items: one row per item in the order of ids: item_id, the features' columns, and what else the table has.
        read: rows of the files.
        quarantine: what was set aside, an object each.
        unfit: by column, the number of values that do not fit the type in the bundle's catalogue, now null.
    """

    items: pa.Table
    read: int
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    unfit: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """A new catalogue compared with the old one.

    Attributes:
        catalogue: the new one. Items keep their rows; new ones, in the order of their ids, get those of removed items,
            then rows at the end. Where fewer are new than removed, the last items move into free rows.
        origin: [items] row of the old catalogue whose feature values are the same, or NEW.
        added: items that are new.
        changed: items with other feature values.
        restated: items of which only other columns have changed.
        removed: items that left.
        unknown: ids to delete that the catalogue did not have.
    """

    catalogue: pa.Table
    origin: Rows
    added: int
    changed: int
    restated: int
    removed: int
    unknown: int

    @property
    def any(self) -> bool:
        """Whether the new catalogue differs at all."""
        return bool(self.added or self.changed or self.restated or self.removed)


def read_ids(path: Path) -> list[str]:
    """Reads the ids of a file, one per line; empty lines are skipped.

    Raises:
        DataError: where it cannot be read.
    """
    try:
        return characters.split_ids(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--delete: {path}: cannot be read: {error}") from None


def read_items(
    config: ExperimentConfig,
    path: Path,
    known: pa.Schema,
    memory_limit: str = "4GB",
    now: float | None = None,
    forms: Mapping[str, str] = MappingProxyType({}),
) -> Listing:
    """Reads a table of items.

    `known` are the columns of the bundle's catalogue; the log writes ids and the features' texts in `forms`, by column
    (see `prepare.text_forms`). Rows that hold from a time after `now` on do not hold yet: epoch seconds, by default the
    time of the call.

    Raises:
        DataError: where the table cannot be read or changes meanwhile, lacks a column of the features, or has no
            usable row that holds.
    """
    sources = input_files.find_files_like(Path(), str(path), _FIELD, read_options(config.data, "items"))
    with (
        input_files.FileSnapshot(sources).held(),
        tempfile.TemporaryDirectory(prefix="twotower-") as work,
        duckdb_engine.open_engine(
            Path(work) / "engine", memory_limit, 0, directories=input_files.list_directories(sources)
        ) as connection,
    ):
        table = read_side_table(connection, config, "items", sources)
        features = list_feature_columns(config, "item")
        _check_columns(config, table, features)
        separators = {each.name: each.separator for feature in config.item_features for each in feature.inputs()}
        text_forms.rewrite_columns(connection, table, forms, separators)
        data = config.data
        moment = int(time.time() if now is None else now)
        counts, rejected = catalogue.create_latest_rows(connection, data, "items", table, moment)
        entries = quarantine.build_entries(connection, table, rejected)
        if not counts.used:
            first = f"; the first, {quarantine.format_place(entries[0])}: {entries[0]['reason']}" if entries else ""
            raise DataError(f"{_FIELD}: {path}: none of {counts.read} rows can be used{first}")
        from_table = tuple(column for column in features if column.name != config.data.item_id)
        raise_first(row_rules.find_number_faults(connection, Inputs(table, table, None, (), (), (), from_table)))
        values = _values(connection, config, table, features)
        kinds = _kinds(connection, known)
        selected, unfit = _fitted(connection, values, kinds)
        items = connection.sql(
            f"SELECT {selected} FROM item_latest AS l JOIN item_table AS t ON t.rowid = l.place ORDER BY l.id"
        ).to_arrow_table()
        if not items.num_rows:
            raise DataError(
                f"{_FIELD}: {path}: none of {counts.used} rows is valid yet; by column {data.items_time!r} each begins "
                "later"
            )
        return Listing(items, counts.read, entries, unfit)


def _check_columns(config: ExperimentConfig, table: Table, features: list[FeatureColumn]) -> None:
    name = table.sources[0].name
    for column in (config.data.item_id, *(feature.name for feature in features)):
        if column not in table.known:
            raise DataError(
                f"{_FIELD}: {unknown_name(f'column in {name}', column, table.known)}; "
                "a table of items has the id and every column of the item features"
            )
        if column in table.lacking:
            raise DataError(f"{_FIELD}: {table.lacking[column].name} has no column {column!r}, unlike other files")


def _values(
    connection: Connection, config: ExperimentConfig, table: Table, features: list[FeatureColumn]
) -> dict[str, str]:
    """Returns SQL of the catalogue's columns, as in `catalogue.create_items_query`."""
    data = config.data
    values = {"item_id": "l.id"}
    if data.item_name in table.columns:
        values["item_name"] = f"coalesce({table.text(data.item_name, 't')}, l.id)"
    for feature in features:
        if feature.name == data.item_id:
            value = "l.id" if feature.kind == "text" else "TRY_CAST(l.id AS DOUBLE)"
        else:
            value = feature.sql(table.columns[feature.name], "t")
        values.setdefault(feature.name, value)
    others = [name for name in table.columns if name not in values and name not in (data.item_id, *RESERVED)]
    return values | user_sql.cast_columns(connection, table, others, "t")


def _kinds(connection: Connection, schema: pa.Schema) -> dict[str, str]:
    """Returns DuckDB's types of the columns of an Arrow schema."""
    connection.register("known_columns", schema.empty_table())
    described = connection.execute("DESCRIBE known_columns").fetchall()
    connection.unregister("known_columns")
    return {name: kind for name, kind, *_ in described}


def _fitted(connection: Connection, values: dict[str, str], kinds: dict[str, str]) -> tuple[str, dict[str, int]]:
    """Returns the select list with the types of the known columns, and the number of values that do not fit."""
    fitted = {name: f"TRY_CAST({value} AS {kinds[name]})" if name in kinds else value for name, value in values.items()}
    counts = [f"count({values[name]}) - count({fitted[name]})" for name in values]
    found = duckdb_engine.fetch_row(
        connection, f"SELECT {', '.join(counts)} FROM item_latest AS l JOIN item_table AS t ON t.rowid = l.place"
    )
    selected = ", ".join(f"{value} AS {quote_identifier(name)}" for name, value in fitted.items())
    return selected, {name: count for name, count in zip(values, found, strict=True) if count}


def merge(
    old: pa.Table, listing: pa.Table | None, deletes: Collection[str], mode: Mode, features: Collection[str]
) -> Changes:
    """Computes the catalogue after the change.

    Items that the listing, `Listing.items`, does not have stay with mode "upsert" and leave with "replace". `features`
    are the source columns of the item features.

    Raises:
        DataError: where an item is listed and deleted at once, or nothing is left.
    """
    ids = old["item_id"].combine_chunks()
    listed = (pa.array([], pa.string()) if listing is None else listing["item_id"].combine_chunks()).cast(ids.type)
    gone = pa.array(sorted(set(deletes)), ids.type)
    both = listed.filter(pc.is_in(listed, value_set=gone))
    if len(both):
        raise DataError(f"item {both[0].as_py()!r}: both in {_FIELD} and in --delete; remove it from one of them")
    # The lookup table is always built from the shorter list: building one of a million ids takes seconds.
    stays = pc.invert(pc.is_in(ids, value_set=gone)).to_numpy(zero_copy_only=False)
    unknown = len(gone) - int(np.count_nonzero(~stays))
    listed_as = pc.fill_null(pc.index_in(ids, value_set=listed), NEW).to_numpy(zero_copy_only=False)
    if mode == "replace":
        stays &= listed_as != NEW
    place = np.full(len(listed), NEW, np.int64)
    place[listed_as[listed_as != NEW]] = np.flatnonzero(listed_as != NEW)
    new = np.flatnonzero(place == NEW)
    origin = _keep_rows(stays, len(new))
    if not len(origin):
        raise DataError("--delete: invalid ids (expected at least one item to stay); nothing would be left")
    # Rows of the concatenation old + listing: an item that stays has a new row where the listing has one.
    source = np.arange(len(ids))
    source[place[place != NEW]] = len(ids) + np.flatnonzero(place != NEW)
    known = origin != NEW
    order = np.empty(len(origin), np.int64)
    order[known], order[~known] = source[origin[known]], len(ids) + new
    whole = old if listing is None else _stacked(old, listing, place)
    catalogue_after = whole.take(pa.array(order)).combine_chunks()
    listed_again = np.flatnonzero(known & (order >= len(ids)))
    before, after = old.take(pa.array(origin[listed_again])), catalogue_after.take(pa.array(listed_again))
    differs = _differs(before, after, [name for name in after.column_names if name in features])
    other = _differs(before, after, [name for name in after.column_names if name not in features]) & ~differs
    origin[listed_again[differs]] = NEW
    counts = (len(new), int(differs.sum()), int(other.sum()), int(np.count_nonzero(~stays)))
    return Changes(catalogue_after, origin, *counts, unknown)


def _keep_rows(stays: npt.NDArray[np.bool_], added: int) -> Rows:
    """Returns by row of the new catalogue the row that its item had, or NEW; as few items as possible move."""
    size = int(np.count_nonzero(stays)) + added
    rows = np.full(size, NEW, np.int64)
    staying = np.flatnonzero(stays[:size])
    rows[staying] = staying
    moved = size + np.flatnonzero(stays[size:])
    rows[np.flatnonzero(rows == NEW)[: len(moved)]] = moved
    return rows


def _stacked(old: pa.Table, listing: pa.Table, place: Rows) -> pa.Table:
    """Concatenates both tables; where the listing lacks a column, known items keep their values."""
    columns: dict[str, pa.ChunkedArray] = {}
    known = pa.array(np.where(place == NEW, 0, place), mask=place == NEW)
    for name in [*old.column_names, *(name for name in listing.column_names if name not in old.column_names)]:
        if name not in old.column_names:
            before = pa.chunked_array([pa.nulls(len(old), listing[name].type)])
        else:
            before = old[name]
        if name in listing.column_names:
            added = listing[name].cast(before.type)
        else:
            added = before.take(known)
            if name == "train_count":
                added = pc.fill_null(added, 0)
            elif name == "item_name":
                added = pc.coalesce(added, listing["item_id"].cast(before.type))
        columns[name] = pa.chunked_array([*before.chunks, *pa.chunked_array(added).chunks], type=before.type)
    return pa.table(columns)


def _differs(before: pa.Table, after: pa.Table, names: list[str]) -> npt.NDArray[np.bool_]:
    """Returns which rows differ in any of the columns; null equals only null."""
    found = np.zeros(len(after), np.bool_)
    for name in names:
        if name not in before.column_names:
            found |= after[name].is_valid().to_numpy()
            continue
        if pa.types.is_nested(before[name].type):
            pairs = zip(before[name].to_pylist(), after[name].to_pylist(), strict=True)
            found |= np.fromiter((one != other for one, other in pairs), np.bool_, len(after))
            continue
        # Codes of the values of both tables: equal values have one code, whatever their type.
        joined = pa.concat_arrays([before[name].combine_chunks(), after[name].combine_chunks()])
        codes = joined.dictionary_encode("encode").indices.to_numpy(zero_copy_only=False)
        found |= codes[: len(after)] != codes[len(after) :]
    return found
