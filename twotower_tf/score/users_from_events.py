"""Writes all users of a prepared log as a table: their latest features, and their history as of now.

A user's features are the latest values that the log and the users table have of the user, whatever an event's split;
the history is every positive, held-out ones too: nothing is held out from the answer that is given next. Where the log
was prepared run by run (`--since`), that is so of all runs and of users who are in none of the new files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower_tf import artifacts, ragged
from twotower_tf import config as configuration
from twotower_tf.artifacts import RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import ArtifactError
from twotower_tf.features.inputs import history_target, list_histories
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.score import user_columns
from twotower_tf.score.job import SEEN
from twotower_tf.sql import Connection, file_pattern, quote_identifier
from twotower_tf.tables import parquet_parts, timestamps
from twotower_tf.tables.duckdb_engine import open_engine

_USERS = 1 << 18  # of one part

Rows = npt.NDArray[np.int32]
Seconds = npt.NDArray[np.integer]


def open_log(run_dir: Path, config: ExperimentConfig) -> Prepared:
    """Opens the log.

    Raises:
        ArtifactError: where it is missing or unfinished, or was prepared for other features than the bundle's.
    """
    prepared = Prepared.open(run_dir)
    path = RunPaths(run_dir).config
    own = configuration.from_json(artifacts.read_text(path, "run directory"), str(path))
    differing = [field for field in ("user_features", "item_features") if getattr(own, field) != getattr(config, field)]
    for name in ("user_id", "item_id", "timestamp"):
        if getattr(own.data, name) != getattr(config.data, name):
            differing.append(f"data.{name}")
    if differing:
        raise ArtifactError(f"--users_from_events: {run_dir}: {', '.join(differing)} differ from those of the bundle")
    return prepared


def build(
    directory: Path,
    prepared: Prepared,
    config: ExperimentConfig,
    index_rows: Rows | None,
    memory_limit: str,
    threads: int,
) -> None:
    """Writes the table, `part-NNNNN.parquet` in the order of user rows, into the new directory, by rename.

    With `index_rows`, `[catalogue]` the index's row of each item or -1, it has lists of what a user has had. What does
    not fit into `memory_limit` is spilled.
    """
    with artifacts.atomic_directory(directory) as staging:
        reach = [staging, prepared.paths.root]
        with open_engine(staging / "engine", memory_limit, threads, directories=reach) as connection:
            _load(connection, prepared, config)
            for number, start in enumerate(range(0, prepared.num_users, _USERS)):
                stop = min(prepared.num_users, start + _USERS)
                table = connection.sql(
                    f"SELECT * EXCLUDE (user_row) FROM latest WHERE user_row BETWEEN {start} AND {stop - 1} "
                    "ORDER BY user_row"
                ).to_arrow_table()
                counts, items, seconds = _positives(connection, start, stop)
                for name, column in _lists(prepared, config, index_rows, counts, items, seconds):
                    table = table.append_column(name, column)
                parquet_parts.write_part(table, staging, number)


def _load(connection: Connection, prepared: Prepared, config: ExperimentConfig) -> None:
    """Creates `latest`, one row per user, and `positives`, user by user in time order; with times where these count."""
    columns = user_columns.list_feature_columns(config)
    names = [each.name for each in columns if each.role not in ("time", "history", "times")]
    known = config.data.user_id
    latest = "".join(
        f", {quote_identifier(f'user.{name}')} AS {quote_identifier(name)}" for name in names if name != known
    )
    connection.execute(
        f"CREATE TABLE latest AS SELECT file_row_number AS user_row, user_id AS {quote_identifier(known)}{latest} "
        f"FROM read_parquet({file_pattern(prepared.paths.users)}, file_row_number=true)"
    )
    paths = file_pattern(prepared.paths.positives, "*.parquet")
    timed = "WHERE micros IS NOT NULL" if config.data.timestamp else ""
    seconds = timestamps.seconds_sql("micros") if any(each.role == "times" for each in columns) else "0"
    connection.execute(
        f"CREATE TABLE positives AS SELECT user_row, item_row, {seconds} AS seconds, row_number() OVER () AS place "
        f"FROM read_parquet({paths}) {timed}"
    )


def _positives(connection: Connection, start: int, stop: int) -> tuple[npt.NDArray[np.int64], Rows, Seconds]:
    """Returns each user's number of positives, their items, oldest first, and the items' times."""
    found = connection.execute(
        f"SELECT user_row, item_row, seconds FROM positives WHERE user_row BETWEEN {start} AND {stop - 1} "
        "ORDER BY user_row, place"
    ).fetchnumpy()
    users = np.asarray(found["user_row"], np.int64) - start
    counts = np.bincount(users, minlength=stop - start)
    return counts, np.asarray(found["item_row"], np.int32), np.asarray(found["seconds"])


def _lists(
    prepared: Prepared,
    config: ExperimentConfig,
    index_rows: Rows | None,
    counts: npt.NDArray[np.int64],
    items: Rows,
    seconds: Seconds,
) -> Iterator[tuple[str, pa.Array]]:
    """Returns the columns of lists: histories, the times of those with `time_gaps`, and past positives."""
    ends = np.cumsum(counts)
    for each in list_histories(config):
        values = prepared.items([history_target(config, each).column]).column(0)
        kept = np.minimum(counts, each.length)
        late = np.arange(len(items)) >= np.repeat(ends - kept, counts)
        yield each.name, _list(pc.take(values, pa.array(items[late])).cast(pa.string()), kept)
        if each.time_gaps:
            yield each.times_name, _list(pa.array(seconds[late], pa.int64()), kept)
    if index_rows is not None:
        yield SEEN, _list(pa.array(index_rows[items]), counts)


def _list(values: pa.Array | pa.ChunkedArray, counts: npt.NDArray[np.int64]) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    offsets = ragged.to_offsets(counts).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
