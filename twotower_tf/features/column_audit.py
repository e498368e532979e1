"""Audits the feature columns: writes their values and hash collisions to `prepared/columns.json`.

Values are counted on the training rows; a column of the catalogue has each of its items' values, weighted by the item's
training rows. Counting happens in DuckDB, which spills; the distinct values then stream through the encoders that
encode the training rows. Memory is one byte per bucket and a batch of values; of a feature with two hashes, 24 bytes
per distinct value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twotower_tf import artifacts
from twotower_tf.config import ExperimentConfig, feature_columns, feature_name
from twotower_tf.config.features import BaseFeature, Input, SideName
from twotower_tf.features import bucket_counts
from twotower_tf.features.array_encoders import build_array_encoder
from twotower_tf.features.inputs import side_features
from twotower_tf.features.row_pairs import pair_rows
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.progress import Progress, silent
from twotower_tf.sql import Connection, file_pattern, quote_identifier, quote_literal
from twotower_tf.tables.arrow_numbers import view_as_numpy
from twotower_tf.tables.duckdb_engine import fetch_row, open_engine

SCHEMA_VERSION = 1
COVERED = (0.5, 0.9, 0.99)
MOST_FREQUENT = 0.01
_LISTED = 10
_BATCH = 1 << 18
_HELD = 1 << 21  # items' versions whose values fit into memory

Counts = npt.NDArray[np.int64]


def audit(
    config: ExperimentConfig,
    prepared: Prepared,
    *,
    memory_limit: str = "4GB",
    threads: int = 0,
    progress: Progress = silent,
    when_counted: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Writes `prepared/columns.json` and returns it; beyond `memory_limit`, DuckDB spills below the run directory.

    `when_counted` is called when the values are counted, before any is encoded.
    """
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "counted_on": "training rows",
        "target_sharing": bucket_counts.TARGET,
        "most_frequent_share": MOST_FREQUENT,
        "user": {},
        "item": {},
    }
    run_dir = prepared.paths.root.parent
    sources = [source for side in ("user", "item") for source in _list_columns(config, prepared, side)]
    with artifacts.scratch_directory(run_dir / "columns") as work:
        reach, counted = [work, prepared.paths.root], []
        with open_engine(work / "engine", memory_limit, threads, directories=reach, ordered=False) as connection:
            _count_rows_by_number(connection, prepared)
            for done, source in enumerate(sources):
                progress("columns", done, len(sources))
                values = work / f"values{done}.parquet"
                counted.append((source, values, *_count(connection, source, prepared.num_rows("train"), values)))
        when_counted()
        # DuckDB has given its memory back before the buckets take theirs
        for source, values, found, top in counted:
            found["features"] = _measure_features(source, config, prepared, values, found, top)
            document[source.side][source.name] = found
    progress("columns", len(sources), len(sources))
    artifacts.write_json(prepared.paths.columns, document)
    return document


@dataclass(frozen=True)
class AuditedColumn:
    """A column, or the combination of columns that a cross hashes.

    Attributes:
        side: whose features read it.
        name: the column's, or the cross feature's.
        columns: the source columns.
        relation: SQL of its values `v0`, `v1`, ... (NULL: no value) with the rows `n` that each stands for.
        features: those that read it.
        separator: where a text holds several values.
    """

    side: SideName
    name: str
    columns: tuple[str, ...]
    relation: str
    features: tuple[BaseFeature, ...]
    separator: str = ""


def _list_columns(config: ExperimentConfig, prepared: Prepared, side: SideName) -> Iterator[AuditedColumn]:
    """Lists the columns and combinations of a side; what is made of the event's time or of other events is left out."""
    features = [
        each
        for each in side_features(config, side)
        if feature_columns(each) and all(source.kind != "time" for source in each.inputs())
    ]
    plain = [each for each in features if len(feature_columns(each)) == 1]
    crosses = [each for each in features if len(feature_columns(each)) > 1]
    for column in dict.fromkeys(name for each in (*plain, *crosses) for name in feature_columns(each)):
        readers = tuple(each for each in plain if feature_columns(each) == (column,))
        separator = next((source.separator for each in readers for source in each.inputs() if source.separator), "")
        yield AuditedColumn(side, column, (column,), _relation(prepared, side, (column,)), readers, separator)
    for cross in crosses:
        columns = feature_columns(cross)
        yield AuditedColumn(side, feature_name(cross), columns, _relation(prepared, side, columns), (cross,))


def _relation(prepared: Prepared, side: SideName, names: Sequence[str]) -> str:
    """Returns SQL with columns `v0`, `v1`, ... and `n`, the number of rows that each row stands for."""
    rows = f"read_parquet({file_pattern(prepared.paths.examples('train'), '*.parquet')})"
    if side == "user":
        by_row = set(prepared.manifest["user_columns_by_row"])
        known = f"read_parquet({file_pattern(prepared.paths.users)}, file_row_number=true)"
        users = f"(SELECT *, file_row_number AS row FROM {known}) AS u"
        selected = _select(f"{'u' if name in by_row else 'e'}." + quote_identifier(f"user.{name}") for name in names)
        if by_row.isdisjoint(names):
            return f"SELECT {selected}, 1 AS n FROM {rows} AS e"
        if by_row.issuperset(names):
            return f"SELECT {selected}, w.n FROM {users} JOIN user_rows AS w ON w.user_row = u.row"
        return f"SELECT {selected}, 1 AS n FROM {rows} AS e JOIN {users} ON u.row = e.user_row"
    catalogue = file_pattern(prepared.paths.items)
    items = f"(SELECT *, file_row_number AS row FROM read_parquet({catalogue}, file_row_number=true)) AS i"
    varying = set(prepared.manifest["item_columns_as_of"])
    if varying.isdisjoint(names):
        selected = _select("i." + quote_identifier(name) for name in names)
        return f"SELECT {selected}, coalesce(w.n, 0) AS n FROM {items} LEFT JOIN item_rows AS w ON w.item_row = i.row"
    selected = _select(
        "v." + quote_identifier(f"item.{name}") if name in varying else "i." + quote_identifier(name) for name in names
    )
    mixed = "" if varying.issuperset(names) else f"JOIN {items} ON i.row = v.item_row"
    return f"SELECT {selected}, v.n FROM version_values AS v {mixed}"


def _count_rows_by_number(connection: Connection, prepared: Prepared) -> None:
    """Creates `user_rows`, `item_rows` and `version_values`: the training rows of users, items and items' versions.

    `version_values` also has the versions' values. They are joined once, where they fit into memory, not by column.
    """
    rows = f"read_parquet({file_pattern(prepared.paths.examples('train'), '*.parquet')})"
    wanted = {"user_rows": "user_row", "item_rows": "item_row"}
    if prepared.manifest["item_columns_as_of"]:
        wanted["version_rows"] = "item_version"
    for table, column in wanted.items():
        connection.execute(f"CREATE TABLE {table} AS SELECT {column}, count(*) AS n FROM {rows} GROUP BY {column}")
    if prepared.manifest["item_columns_as_of"]:
        (held,) = fetch_row(connection, "SELECT count(*) FROM version_rows")
        connection.execute(
            f"CREATE {'TABLE' if held <= _HELD else 'VIEW'} version_values AS SELECT v.*, w.n "
            f"FROM read_parquet({file_pattern(prepared.paths.item_versions, '*.parquet')}) AS v "
            "JOIN version_rows AS w ON w.item_version = v.version"
        )


def _select(values: Iterable[str]) -> str:
    return ", ".join(f"{value} AS v{position}" for position, value in enumerate(values))


def _count(connection: Connection, source: AuditedColumn, total: int, path: Path) -> tuple[dict[str, Any], pa.Table]:
    """Writes the distinct values and their rows to `path`.

    Returns what is known of them, as shares of the `total` training rows, and the most frequent 1 %.
    """
    names = [f"v{position}" for position in range(len(source.columns))]
    present = " AND ".join(f"{name} IS NOT NULL" for name in names)
    values = source.relation
    if source.separator:
        split = f"unnest(string_split(v0, {quote_literal(source.separator)}))"
        values = f"SELECT nullif(trim({split}, ' \t\r\n'), '') AS v0, n FROM ({values})"
    connection.execute(
        f"COPY (SELECT {', '.join(names)}, CAST(sum(n) AS BIGINT) AS n FROM ({values}) WHERE {present} GROUP BY ALL) "
        f"TO {quote_literal(str(path))} (FORMAT parquet)"
    )
    counted = f"read_parquet({file_pattern(path)})"
    levels = connection.execute(f"SELECT n, count(*) FROM {counted} GROUP BY n ORDER BY n DESC").fetchnumpy()
    per_value, how_many = (np.asarray(column, np.int64) for column in levels.values())
    distinct, with_value = int(how_many.sum()), int((per_value * how_many).sum())
    missing = total - with_value
    if source.separator:  # a text may hold several values, or none
        (missing,) = fetch_row(connection, f"SELECT coalesce(sum(n), 0) FROM ({source.relation}) WHERE NOT ({present})")
    listed = connection.execute(
        f"SELECT {', '.join(names)}, n FROM {counted} ORDER BY n DESC, {', '.join(names)} LIMIT {_LISTED}"
    ).fetchall()
    found: dict[str, Any] = {
        "columns": list(source.columns),
        "rows": total,
        "missing_share": _share(int(missing), total),
        "values": {"distinct": distinct, "exact": True},
        "most_frequent": [
            {"value": value[0] if len(value) == 1 else list(value), "share": _share(n, with_value)}
            for *value, n in listed
        ],
        "values_covering": {str(share): count_covering(per_value, how_many, share) for share in COVERED},
    }
    return found, _most_frequent(connection, counted, names, per_value, how_many)


def _measure_features(
    source: AuditedColumn,
    config: ExperimentConfig,
    prepared: Prepared,
    path: Path,
    counted: Mapping[str, Any],
    top: pa.Table,
) -> dict[str, Any]:
    """Measures each categorical feature's buckets of the values."""
    statistics = prepared.statistics[source.side]
    found: dict[str, Any] = {}
    for feature in source.features:
        if feature.numeric:
            continue
        buckets = BucketFunction(config, feature, statistics)
        if feature.kind == "number":
            found[feature_name(feature)] = _count_rows(buckets, path)
        else:
            found[feature_name(feature)] = _count_sharing(buckets, path, counted["values"]["distinct"], top)
    return found


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def count_covering(per_value: Counts, how_many: Counts, share: float) -> int:
    """Returns the smallest number of values that cover `share` of the rows.

    Args:
        per_value: `[L]` rows of a value, descending.
        how_many: `[L]` number of values with so many rows.
        share: of the rows that have a value, above 0.
    """
    rows = np.cumsum(per_value * how_many)
    if not len(rows) or not rows[-1]:
        return 0
    needed = math.ceil(share * float(rows[-1]))
    level = int(np.searchsorted(rows, needed))
    before = int(rows[level - 1]) if level else 0
    return int(how_many[:level].sum()) + -(-(needed - before) // int(per_value[level]))


def _most_frequent(
    connection: Connection, counted: str, names: Sequence[str], per_value: Counts, how_many: Counts
) -> pa.Table:
    """Returns the most frequent 1 % of the values (at least one); of equally frequent ones the first in order."""
    wanted = math.ceil(MOST_FREQUENT * int(how_many.sum()))
    level = int(np.searchsorted(np.cumsum(how_many), wanted))
    least = int(per_value[level]) if wanted else 0
    selected = ", ".join(names)
    return connection.sql(
        f"SELECT {selected} FROM {counted} WHERE n >= {least} ORDER BY n DESC, {selected} LIMIT {wanted}"
    ).to_arrow_table()


class BucketFunction:
    """A categorical feature's buckets for columns of values, as training computes them."""

    def __init__(self, config: ExperimentConfig, feature: BaseFeature, statistics: Mapping[str, Any]) -> None:
        self.feature = feature
        self._encode = build_array_encoder(feature, statistics, config)

    def __call__(self, parts: Sequence[pa.ChunkedArray | pa.Array]) -> npt.NDArray[np.int32]:
        """Returns `[n]` bucket ids of `[n]` values, one column per source column of the feature."""
        inputs = self.feature.inputs()
        raw = {each.name: _read_values(each, part) for each, part in zip(inputs, parts, strict=True)}
        ids: npt.NDArray[np.int32] = self._encode(raw)[:, 0]
        return ids


def _read_values(spec: Input, part: pa.ChunkedArray | pa.Array) -> Any:
    """Converts single values to an input's raw column; texts of several values are split already."""
    if spec.kind == "number":
        return view_as_numpy(part).astype(np.float32)
    if spec.kind == "texts":
        return pc.cast(part, pa.binary()).to_numpy(zero_copy_only=False).reshape(-1, 1)
    return part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part


def _batches(path: Path, buckets: BucketFunction) -> Iterator[tuple[npt.NDArray[np.int32], Counts]]:
    """Yields bucket ids and row counts of the distinct values, batch by batch."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH):
            if batch.num_rows:
                yield buckets(batch.columns[:-1]), view_as_numpy(batch.columns[-1])


def _count_sharing(buckets: BucketFunction, path: Path, distinct: int, top: pa.Table) -> dict[str, Any]:
    """Computes expected and measured sharing of a hashed feature; with two hashes, of both rows in common."""
    feature, size = buckets.feature, buckets.feature.table_rows()
    hashes = getattr(feature, "hashes", 1)
    of_top: npt.NDArray[Any] = buckets(top.columns) if top.num_rows else np.empty(0, np.int32)
    if hashes == 2:
        of_top = _find_pairs(of_top, size)
        pairs = [_find_pairs(ids, size) for ids, _ in _batches(path, buckets)]
        found, times = np.unique(np.concatenate(pairs) if pairs else np.empty(0, np.int64), return_counts=True)
        rows = np.zeros(size, bool)
        rows[found // size] = rows[found % size] = True
        used, shared = np.count_nonzero(rows), times[times > 1].sum()
        shared_of_top = np.count_nonzero(times[np.searchsorted(found, of_top)] > 1)
    else:
        occupied = np.zeros(size, np.uint8)  # 0, 1, or 2 and more
        for ids, _ in _batches(path, buckets):
            found, times = np.unique(ids, return_counts=True)
            occupied[found] = np.minimum(occupied[found] + np.minimum(times, 2), 2)
        used, shared = np.count_nonzero(occupied), distinct - np.count_nonzero(occupied == 1)
        shared_of_top = np.count_nonzero(occupied[of_top] > 1)
    among = np.unique(of_top, return_counts=True)[1]
    expected = bucket_counts.expected_sharing(distinct, size, hashes)
    return {
        "type": feature.type,
        **({"hashes": 2} if hashes == 2 else {}),
        "buckets": size,
        "buckets_used": int(used),
        "suggested_buckets": bucket_counts.suggest_buckets(distinct),
        "sharing": {"expected": expected, "measured": _share(int(shared), distinct)},
        "most_frequent_sharing": {
            "values": top.num_rows,
            "expected": expected if top.num_rows else 0.0,
            "measured": _share(int(shared_of_top), top.num_rows),
            "expected_among_themselves": bucket_counts.expected_sharing(top.num_rows, size, hashes),
            "measured_among_themselves": _share(int(among[among > 1].sum()), top.num_rows),
        },
    }


def _find_pairs(ids: npt.NDArray[np.int32], size: int) -> Counts:
    """Returns a number for the two rows of each id, whichever of them is the first: either order has one sum."""
    first, second = pair_rows(ids.astype(np.int64), size)
    pairs: Counts = np.minimum(first, second) * size + np.maximum(first, second)
    return pairs


def _count_rows(buckets: BucketFunction, path: Path) -> dict[str, Any]:
    """Counts the rows in each bucket of a number."""
    rows = np.zeros(0, np.int64)
    for ids, counts in _batches(path, buckets):
        here = np.bincount(ids, weights=counts, minlength=len(rows)).astype(np.int64)
        here[: len(rows)] += rows
        rows = here
    levels = np.sort(rows[rows > 0])[::-1]
    total = int(rows.sum())
    return {
        "type": buckets.feature.type,
        "buckets": buckets.feature.table_rows(),
        "buckets_used": len(levels),
        "row_shares": [_share(int(count), total) for count in rows],
        "buckets_covering": {str(share): count_covering(levels, np.ones_like(levels), share) for share in COVERED},
    }
