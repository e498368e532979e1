"""Finds the excluded items of each user in a table of pairs (an event log is one) of any size.

The pairs are sorted once, out of core, into arrays that the workers map: users by a hash of their id, items by their
row of the index. A second hash distinguishes users that share the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from twotower_tf import artifacts, ragged, sql
from twotower_tf.config import DataConfig
from twotower_tf.errors import DataError, unknown_name
from twotower_tf.index.eligible import Ineligible
from twotower_tf.index.item_vectors import Ids
from twotower_tf.prepare import text_forms
from twotower_tf.sql import Connection
from twotower_tf.tables import input_files, input_table, parquet_parts, readers
from twotower_tf.tables.duckdb_engine import fetch_row, open_engine
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.read_options import read_options
from twotower_tf.tables.values import text_sql

_HASHES = "hash({0}), hash({0} || chr(1))"
_FILES = ("users", "checks", "offsets", "rows")


def find(data: DataConfig, pattern: str) -> list[InputFile]:
    """Finds the files of the table of pairs."""
    return input_files.find_files(Path(), pattern, "--exclude", replace(read_options(data, "events"), columns=()))


def build(
    directory: Path,
    sources: Sequence[InputFile],
    data: DataConfig,
    forms: Mapping[str, str],
    ids: Ids,
    memory_limit: str,
    threads: int,
) -> None:
    """Writes the sorted pairs into the new directory `directory`, by rename.

    `data` names the columns of the ids in `sources`; `forms` are the bundle's, by column (see `prepare.text_forms`).
    Pairs with an item that is not in `ids`, those of the index in row order, are passed over. What does not fit into
    `memory_limit` is spilled.

    Raises:
        DataError: for a missing column or a file that cannot be read.
    """
    with (
        artifacts.atomic_directory(directory) as staging,
        input_files.FileSnapshot(sources).held(),
        open_engine(
            staging / "engine", memory_limit, threads, directories=[staging, *input_files.list_directories(sources)]
        ) as connection,
    ):
        wanted = {data.user_id, data.item_id}
        table = readers.read_table(connection, "pairs", sources, wanted.__contains__)
        for field, name in (("data.user_id", data.user_id), ("data.item_id", data.item_id)):
            if name not in table.known:
                where = f"column in {sources[0].name}"
                raise DataError(f"--exclude: {field}: {unknown_name(where, name, table.known)}")
        named = {name: forms.get(name, "") for name in (data.user_id, data.item_id)}
        text_forms.rewrite_columns(connection, table, named, {})
        _sort(connection, table, data, ids)
        _write(connection, staging)


def _sort(connection: Connection, table: input_table.Table, data: DataConfig, ids: Ids) -> None:
    connection.register("known_items", pa.table({"id": pa.array(ids, pa.string()), "row": np.arange(len(ids))}))
    pair = (table.columns[name] for name in (data.user_id, data.item_id))
    user, item = (text_sql(column.identifier, column.kind) for column in pair)
    first, second = _HASHES.format("u").split(", ", 1)
    connection.execute(
        f"""
        CREATE TABLE sorted AS
        SELECT DISTINCT {first} AS hashed, {second} AS checked, CAST(row AS INTEGER) AS row
        FROM (SELECT {user} AS u, {item} AS i FROM pairs) JOIN known_items ON id = i
        WHERE u IS NOT NULL ORDER BY hashed, checked, row
        """
    )


def _write(connection: Connection, staging: Path) -> None:
    (pairs,) = fetch_row(connection, "SELECT count(*) FROM sorted")
    users = "SELECT hashed, checked, count(*) AS items FROM sorted GROUP BY hashed, checked ORDER BY hashed, checked"
    (count,) = fetch_row(connection, f"SELECT count(*) FROM ({users})")
    ends = f"SELECT CAST(sum(items) OVER (ORDER BY hashed, checked) AS BIGINT) AS stop FROM ({users})"
    ends = f"SELECT stop FROM (SELECT CAST(0 AS BIGINT) AS stop UNION ALL {ends}) ORDER BY stop"
    parquet_parts.write_array(connection, f"SELECT hashed FROM ({users})", staging / "users.npy", np.uint64, count)
    parquet_parts.write_array(connection, f"SELECT checked FROM ({users})", staging / "checks.npy", np.uint64, count)
    parquet_parts.write_array(connection, ends, staging / "offsets.npy", np.int64, count + 1)
    parquet_parts.write_array(connection, "SELECT row FROM sorted", staging / "rows.npy", np.int32, pairs)


class Exclusions:
    """The sorted pairs, mapped."""

    def __init__(self, directory: Path, form: str = "") -> None:
        """Maps what `build` wrote; `form` is that of the log's user ids, see `prepare.text_forms`."""
        users, checks, offsets, rows = (np.load(directory / f"{name}.npy", mmap_mode="r") for name in _FILES)
        self._users, self._checks, self._offsets, self._rows = users, checks, offsets, rows
        self._connection = sql.connect(threads=1)
        self._hashes = _HASHES.format(f"({text_forms.apply_form_sql('u', form)})")

    def of(self, ids: pa.Array) -> Ineligible:
        """Returns the index rows that users `[n]` must not get."""
        self._connection.register("asked", pa.table({"u": ids}))
        found = self._connection.sql(f"SELECT {self._hashes} FROM asked").to_arrow_table()
        hashed, checked = (column.fill_null(0).to_numpy().astype(np.uint64) for column in found.columns)
        place = np.searchsorted(self._users, hashed)
        last = max(0, len(self._users) - 1)
        known = np.zeros(len(ids), np.bool_)
        if len(self._users):
            known = np.asarray(self._users[np.minimum(place, last)] == hashed)
            # of users with one hash, the one whose second hash agrees; there are hardly ever two
            while (other := known & (np.asarray(self._checks[np.minimum(place, last)]) != checked)).any():
                place[other] += 1
                known &= ~other | ((place <= last) & (self._users[np.minimum(place, last)] == hashed))
        queries = np.flatnonzero(known)
        starts = self._offsets[place[queries]]
        counts = self._offsets[place[queries] + 1] - starts
        rows = np.asarray(self._rows[ragged.to_places(starts, counts)], np.int64)
        return Ineligible(np.repeat(queries, counts), rows, len(ids))


def read_lists(lists: pa.Array) -> Ineligible:
    """Reads ineligible items from lists of index rows `[n]`, null for none."""
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    rows = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return Ineligible(ragged.to_rows(lengths), rows, len(lists))
