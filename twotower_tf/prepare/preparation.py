"""Converts raw tables to `prepared/`: a sequence of SQL steps, on DuckDB out of core or on Spark.

The steps: read, validate every row, number users and items, split, histories, training rows, catalogue, statistics,
manifest; one rename publishes the result. Every step is a table or a stream in DuckDB; the same input and configuration
give the same bytes, whatever the number of threads. On Spark the same steps give the same rows, with other parts in
`examples/`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import SPLITS, PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.prepare import (
    catalogue,
    histories,
    input_warnings,
    item_versions,
    row_rules,
    schema,
    splits,
    statistics,
    text_forms,
    training_rows,
    typed_values,
    unusable_tables,
)
from twotower_tf.prepare.incremental import PreviousRun, config_digests, open_previous_run
from twotower_tf.prepare.schema import FeatureColumn, Inputs, Side
from twotower_tf.prepare.spark.spark_session import SparkOptions, open_spark
from twotower_tf.progress import Progress, silent
from twotower_tf.sql import Connection, file_pattern, quote_identifier
from twotower_tf.tables import input_files, parquet_parts, quarantine, timestamps
from twotower_tf.tables.cluster import Cluster
from twotower_tf.tables.duckdb_engine import drop_table, fetch_row, open_engine, parse_size
from twotower_tf.tables.input_table import Column

SCHEMA_VERSION = 6
_STEPS = 8


def prepare_log(
    config: ExperimentConfig,
    run_dir: Path,
    *,
    memory_limit: str = "4GB",
    threads: int = 0,
    spark: SparkOptions | None = None,
    since: Path | None = None,
    now: float | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Writes `prepared/` of a run directory and returns its manifest.

    Args:
        config: the experiment.
        run_dir: the run directory; an earlier `prepared/` there is replaced at the end, as a whole.
        memory_limit: approximate limit of the process's memory, e.g. "4GB"; beyond it, DuckDB spills below the run
            directory.
        threads: of DuckDB; 0 takes one per core.
        spark: options of a Spark session, which then does the work; `memory_limit` is that of each of its tasks. The
            run directory and the input files are then on storage that every executor reaches under the same path.
        since: a previous run directory that this one continues with new files (see `prepare.incremental`), or None.
        now: epoch seconds as of which the catalogue is built: rows of the item table that begin later are not valid
            yet; None is the time of the call.
        progress: called for each step.

    Returns:
        the manifest.

    Raises:
        ArtifactError: where `since` has no finished preparation.
        DataError: for input that cannot be used, or that changes while it is read.
        ConfigError: for an invalid `memory_limit`, or where Spark cannot be started.
    """
    parse_size(memory_limit)  # check the arguments before the files
    previous = open_previous_run(Path(since), config, Path(run_dir), SCHEMA_VERSION) if since else None
    sources = _sources(config, previous)
    every = [source for table in sources.values() for source in table]
    inputs = input_files.FileSnapshot(every)
    with artifacts.atomic_directory(RunPaths(Path(run_dir)).prepared, replace=True) as temporary:
        work, own = temporary / "work", [temporary, *([previous.paths.root] if previous else [])]
        with (
            (
                open_spark(spark, work, memory_limit, own)
                if spark
                else open_engine(
                    work,
                    memory_limit,
                    threads,
                    input_files.estimate_text_bytes(sources["events"]),
                    directories=[*own, *input_files.list_directories(every)],
                )
            ) as connection,
            inputs.held(),
        ):
            moment = int(time.time() if now is None else now)
            return _prepare(connection, config, temporary, threads, progress, previous, sources, moment)


def _prepare(
    connection: Connection,
    config: ExperimentConfig,
    root: Path,
    threads: int,
    progress: Progress,
    previous: PreviousRun | None,
    sources: dict[str, list[input_files.InputFile]],
    now: int,
) -> dict[str, Any]:
    paths, steps = PreparedPaths(root), iter(range(_STEPS + 1))

    def step() -> None:
        progress("prepare", next(steps), _STEPS)

    step()
    past, known = "", None
    if previous:
        previous.load(connection)
        past, known = "previous_positives", previous.catalogue_columns()
    inputs = dataclasses.replace(schema.load_tables(connection, config, sources), continued=previous is not None)
    step()
    row_rules.check_numbers(connection, inputs)
    time_form = row_rules.validate_events(connection, config, inputs)
    inputs = typed_values.create_typed_values(connection, config, inputs, known)
    tables, rejected = _side_tables(connection, config, inputs, now)
    entries = _quarantine(connection, inputs, rejected, paths.quarantine)
    rows = row_rules.account_rows(connection, config, inputs, len(entries["events"]))
    warnings = input_warnings.find_warnings(connection, config, inputs, entries)
    step()
    catalogue.number_ids(connection, inputs)
    drop_table(connection, "validated_events")
    splits.assign_splits(connection, config)
    drop_table(connection, "used_events")
    step()
    histories.count_positives(connection, past)
    histories.write_sequences(connection, root, past)
    step()
    versions = _versions(connection, config, inputs, known)
    histories.create_rows_with_history(connection, config.data.ordered, versions, inputs.keys)
    step()
    _write_rows(connection, inputs, paths, threads, progress)
    step()
    parquet_parts.write_table(connection, catalogue.create_items_query(connection, config, inputs, known), paths.items)
    parquet_parts.write_table(connection, catalogue.create_users_query(connection, inputs), paths.users)
    step()
    _write_statistics(connection, config, inputs, paths, previous)
    manifest = _manifest(connection, config, inputs, rows, tables, paths) | {
        "time_form": time_form,
        **_text_forms(connection, config, inputs, previous),
        "warnings": warnings,
        "basis": config_digests(config),
        "since": {"inputs": previous.inputs} if previous else None,
    }
    artifacts.write_json(paths.manifest, manifest)
    step()
    return manifest


def _write_rows(connection: Connection, inputs: Inputs, paths: PreparedPaths, threads: int, progress: Progress) -> None:
    """Writes the training rows and the item versions, and drops their tables."""

    def report(done: int, total: int) -> None:
        progress("examples", done, total)

    training_rows.write_training_rows(connection, inputs, paths, threads, report)
    drop_table(connection, "rows_with_history")
    if inputs.item_as_of:
        parquet_parts.write_parts(connection, item_versions.versions_query(inputs), paths.item_versions)
        drop_table(connection, "item_versions")


def _sources(config: ExperimentConfig, previous: PreviousRun | None) -> dict[str, list[input_files.InputFile]]:
    """Finds the files of every table; of the log those that `previous` has not read."""
    found: dict[str, list[input_files.InputFile]] = {
        name: schema.find_table(config.data, name) for name in schema.TABLES
    }
    return found | {"events": previous.unread(found["events"])} if previous else found


def _side_tables(
    connection: Connection, config: ExperimentConfig, inputs: Inputs, now: int
) -> tuple[dict[str, Any], dict[str, list[tuple[int, str]]]]:
    """Reduces item and user tables to the latest row per id; returns counts, and rows without a usable id.

    Raises:
        DataError: where a table has no usable row.
    """
    counts: dict[str, Any] = {}
    rejected: dict[str, list[tuple[int, str]]] = {}
    data = config.data
    for name, table, column, since in (
        ("items", inputs.items, data.item_id, data.items_time),
        ("users", inputs.users, data.user_id, data.users_time),
    ):
        if table is not None:
            found, rejected[name] = catalogue.create_latest_rows(
                connection, table, column, data.timestamp, name[:-1], since, now
            )
            counts[name] = dataclasses.asdict(found)
            for error in unusable_tables.find_unusable(connection, name, table, rejected[name]):
                raise DataError(error)
    return counts, rejected


def _quarantine(
    connection: Connection, inputs: Inputs, rejected: dict[str, list[tuple[int, str]]], path: Path
) -> dict[str, list[dict[str, Any]]]:
    """Writes the quarantine and returns its entries by table."""
    bad = connection.execute(
        "SELECT place, reason FROM validated_events WHERE reason IS NOT NULL ORDER BY place"
    ).fetchall()
    found = {"events": quarantine.build_entries(connection, inputs.events, bad)}
    for name, table in (("items", inputs.items), ("users", inputs.users)):
        if table is not None:
            found[name] = quarantine.build_entries(connection, table, rejected[name])
    quarantine.write_entries(path, itertools.chain.from_iterable(found.values()))
    return found


def _versions(
    connection: Connection, config: ExperimentConfig, inputs: Inputs, previous: Mapping[str, Column] | None
) -> dict[str, bool]:
    """Creates the versions of each side that the examples join; returns whether they have times, by side."""
    found = {}
    if inputs.user_from_table:
        found["user"] = bool(config.data.users_time)
        histories.create_user_versions(connection, timed=found["user"])
        if inputs.continued:
            histories.create_carried_users(connection)
    if inputs.item_as_of:
        found["item"] = True
        item_versions.create_item_versions(connection, inputs, previous, timed=bool(config.data.items_time))
    return found


def _text_forms(
    connection: Connection, config: ExperimentConfig, inputs: Inputs, previous: PreviousRun | None
) -> dict[str, dict[str, str]]:
    """Finds the text forms of booleans and whole numbers that the logs of this and all previous runs share."""
    sides: dict[str, Side] = {"text_forms": "user", "item_text_forms": "item"}
    found = {key: text_forms.find_text_forms(connection, config, inputs, side) for key, side in sides.items()}
    if previous is None:
        return found
    before = {key: previous.manifest.get(key, {}) for key in sides}  # earlier preparations lack the items' forms
    return {
        key: {name: form for name, form in forms.items() if before[key].get(name) == form}
        for key, forms in found.items()
    }


def _write_statistics(
    connection: Connection, config: ExperimentConfig, inputs: Inputs, paths: PreparedPaths, previous: PreviousRun | None
) -> None:
    """Writes the statistics of the training rows, or those of the previous run, which its model was trained with."""
    if previous:
        previous.reuse_statistics(paths)
    else:
        numbers = statistics.compute_statistics(connection, config, _training_rows(inputs, paths))
        artifacts.write_json(paths.statistics, numbers)


def _training_rows(inputs: Inputs, paths: PreparedPaths) -> Any:
    """Returns a function that gives the statistics SQL of the training rows and of a column's value there."""
    examples = f"read_parquet({file_pattern(paths.examples('train'), '*.parquet')})"
    items = (
        f"(SELECT *, file_row_number AS item_row FROM read_parquet({file_pattern(paths.items)}, file_row_number=true))"
    )
    varying = {column.name for column in inputs.item_as_of}

    def relation(side: str, column: str) -> tuple[str, str]:
        if side == "user" or column in varying:
            return examples, quote_identifier(f"{side}.{column}")
        return f"{examples} AS e JOIN {items} AS i ON i.item_row = e.item_row", f"i.{quote_identifier(column)}"

    return relation


def _manifest(
    connection: Connection,
    config: ExperimentConfig,
    inputs: Inputs,
    rows: dict[str, Any],
    tables: dict[str, Any],
    paths: PreparedPaths,
) -> dict[str, Any]:
    found = connection.execute(
        "SELECT split, count(*), count(*) FILTER (label = 1), count(DISTINCT user_row), count(DISTINCT item_row), "
        "min(ts), max(ts) FROM split_events GROUP BY split"
    ).fetchall()
    by_split = {SPLITS[code]: counts for code, *counts, _, _ in found}
    first, last = (timestamps.seconds_sql(f"{end}(ts)") for end in ("min", "max"))
    times = fetch_row(connection, f"SELECT {first}, {last} FROM split_events")
    sources = [source for table in (inputs.events, inputs.items, inputs.users) if table for source in table.sources]
    return {
        "schema_version": SCHEMA_VERSION,
        "engine": "spark" if isinstance(connection, Cluster) else "duckdb",
        "config_fingerprint": configuration.fingerprint(config),
        "rows": rows,
        "tables": tables,
        "splits": {
            split: dict(zip(("rows", "positives", "users", "items"), by_split.get(split, [0] * 4), strict=True))
            for split in SPLITS
        },
        "items": pq.read_metadata(paths.items).num_rows,
        "users": pq.read_metadata(paths.users).num_rows,
        "time_range": list(times) if times[0] is not None else None,
        "split_times": {SPLITS[code]: [first, last] for code, *_, first, last in found if first is not None},
        "item_columns_as_of": [column.name for column in inputs.item_as_of],
        "columns": _columns(inputs),
        "keys": [*training_rows.KEYS, *inputs.keys],
        "inputs": [input_files.describe_file(source) for source in sources],
    }


def _columns(inputs: Inputs) -> dict[str, Any]:
    """Describes the source columns of the features: their kind, and the table of their values."""

    def described(columns: tuple[FeatureColumn, ...], table: str) -> dict[str, dict[str, str]]:
        return {column.name: {"kind": column.kind, "from": table} for column in columns}

    return {
        "user": described(inputs.user_from_events, "events") | described(inputs.user_from_table, "users"),
        "item": described(inputs.item_from_events, "events") | described(inputs.item_from_table, "items"),
    }
