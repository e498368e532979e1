"""Converts raw tables to `prepared/`: a sequence of SQL steps, on DuckDB out of core or on Spark.

The steps: read, validate every row, number users and items, split, histories, training rows, catalogue, statistics,
manifest; one rename publishes the result. Every step is a table or a stream in DuckDB; the same input and configuration
give the same bytes, whatever the number of threads. On Spark the same steps give the same rows, with other parts in
`examples/`.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from twotower_tf import artifacts
from twotower_tf import config as configuration
from twotower_tf.artifacts import SPLITS, PreparedPaths, RunPaths
from twotower_tf.config import ExperimentConfig, History
from twotower_tf.errors import raise_first
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
from twotower_tf.prepare.incremental import PreviousRun, compute_digests, open_previous_run
from twotower_tf.prepare.schema import FeatureColumn, Inputs, Side
from twotower_tf.prepare.spark.spark_session import SparkOptions, open_spark
from twotower_tf.progress import Progress, silent
from twotower_tf.sql import Connection, file_pattern, quote_identifier
from twotower_tf.tables import input_files, parquet_parts, quarantine, timestamps
from twotower_tf.tables.cluster import Cluster
from twotower_tf.tables.duckdb_engine import drop_table, fetch_row, open_engine, parse_size
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column
from twotower_tf.tables.read_options import TableName

SCHEMA_VERSION = 7  # 7: examples have numbers of users and of items' versions, and not their texts
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
    sources = {name: schema.find_table(config.data, name) for name in schema.TABLES}
    if previous:
        sources["events"] = previous.select_unread(sources["events"])
    every = [source for table in sources.values() for source in table]
    snapshot = input_files.FileSnapshot(every)
    with artifacts.atomic_directory(RunPaths(Path(run_dir)).prepared, replace=True) as temporary:
        work, own = temporary / "work", [temporary, *([previous.paths.root] if previous else [])]
        if spark:
            engine = open_spark(spark, work, memory_limit, own)
        else:
            text_bytes = input_files.estimate_text_bytes(sources["events"])
            readable = [*own, *input_files.list_directories(every)]
            engine = open_engine(work, memory_limit, threads, text_bytes, directories=readable)
        with engine as connection, snapshot.held():
            moment = int(time.time() if now is None else now)
            preparation = _Preparation(connection, config, PreparedPaths(temporary), previous)
            return preparation.run(sources, threads, moment, progress)


class _Preparation:
    """The steps of one preparation, on the tables of a connection."""

    def __init__(
        self, connection: Connection, config: ExperimentConfig, paths: PreparedPaths, previous: PreviousRun | None
    ) -> None:
        self._connection, self._config, self._paths, self._previous = connection, config, paths, previous
        self._known: Mapping[str, Column] | None = None  # columns of the previous run's catalogue

    def run(
        self, sources: Mapping[TableName, list[InputFile]], threads: int, now: int, progress: Progress
    ) -> dict[str, Any]:
        """Runs the steps and returns the manifest."""
        connection, config, paths, previous = self._connection, self._config, self._paths, self._previous
        steps = iter(range(_STEPS + 1))

        def step() -> None:
            progress("prepare", next(steps), _STEPS)

        step()
        if previous:
            self._known = previous.load(connection)
        past = "previous_positives" if previous else ""
        inputs = schema.load_tables(connection, config, sources, continued=previous is not None)
        step()
        rules = row_rules.RowRules(connection, config, inputs, sample=True)
        raise_first(rules.faults)
        rules.create_validated_events(connection)
        inputs = typed_values.create_typed_values(connection, config, inputs, self._known)
        counts, entries = self._set_aside(inputs, now)
        rows = row_rules.account_rows(connection, config, inputs, len(entries["events"]))
        warnings = input_warnings.find_warnings(connection, config, inputs, entries)
        step()
        catalogue.number_ids(connection, inputs)
        drop_table(connection, "validated_events")
        splits.assign_splits(connection, config)
        drop_table(connection, "used_events")
        step()
        histories.count_positives(connection, past)
        gaps = any(isinstance(each, History) and each.time_gaps for each in config.user_features)
        histories.write_sequences(connection, paths, past, times=gaps)
        step()
        versions = self._create_versions(inputs)
        step()
        training_rows.write_training_rows(
            connection, inputs, paths, versions, threads, progress, timed=config.data.ordered
        )
        if inputs.item_as_of:
            parquet_parts.write_parts(connection, item_versions.build_versions_query(inputs), paths.item_versions)
            drop_table(connection, "item_versions")
        step()
        items = catalogue.create_items_query(connection, config, inputs, self._known)
        parquet_parts.write_table(connection, items, paths.items)
        parquet_parts.write_table(connection, catalogue.create_users_query(connection, inputs), paths.users)
        step()
        self._write_statistics(inputs)
        manifest = self._describe(inputs) | {
            "rows": rows,
            "tables": counts,
            "time_form": rules.time_form,
            **self._find_text_forms(inputs),
            "warnings": warnings,
            "basis": compute_digests(config),
            "since": {"inputs": previous.inputs} if previous else None,
        }
        artifacts.write_json(paths.manifest, manifest)
        step()
        return manifest

    def _set_aside(self, inputs: Inputs, now: int) -> tuple[dict[str, Any], dict[TableName, list[dict[str, Any]]]]:
        """Reduces item and user tables to the latest row per id, and writes the quarantine.

        Returns:
            counts of the side tables' rows, and the quarantine's entries by table.

        Raises:
            DataError: where a table has no usable row.
        """
        counts: dict[str, Any] = {}
        rejected = {"events": row_rules.fetch_rejected(self._connection)}
        for name, table in inputs.side_tables.items():
            found, rejected[name] = catalogue.create_latest_rows(self._connection, self._config.data, name, table, now)
            counts[name] = dataclasses.asdict(found)
            raise_first(unusable_tables.find_unusable(self._connection, name, table, rejected[name]))
        entries = {
            name: quarantine.build_entries(self._connection, table, rejected[name])
            for name, table in inputs.tables.items()
        }
        quarantine.write_entries(self._paths.quarantine, itertools.chain.from_iterable(entries.values()))
        return counts, entries

    def _create_versions(self, inputs: Inputs) -> dict[str, bool]:
        """Creates the versions of each side that the examples join; returns whether they have times, by side."""
        data, found = self._config.data, {}
        if inputs.user_from_table:
            found["user"] = bool(data.users_time)
            histories.create_user_versions(self._connection, timed=found["user"], continued=inputs.continued)
        if inputs.item_as_of:
            found["item"] = True
            item_versions.create_item_versions(self._connection, inputs, self._known, timed=bool(data.items_time))
        return found

    def _find_text_forms(self, inputs: Inputs) -> dict[str, dict[str, str]]:
        """Finds the text forms of booleans and whole numbers that the logs of this and all previous runs share."""
        sides: dict[str, Side] = {"text_forms": "user", "item_text_forms": "item"}
        found = {}
        for key, side in sides.items():
            found[key] = text_forms.find_text_forms(self._connection, self._config, inputs, side)
            if self._previous:
                before = self._previous.manifest.get(key, {})  # earlier preparations lack the items' forms
                found[key] = {name: form for name, form in found[key].items() if before.get(name) == form}
        return found

    def _write_statistics(self, inputs: Inputs) -> None:
        """Writes the statistics of the training rows, or of the previous run, which its model was trained with."""
        if self._previous:
            shutil.copyfile(self._previous.paths.statistics, self._paths.statistics)
            return
        rows = file_pattern(self._paths.examples("train"), "*.parquet")
        examples, varying = f"read_parquet({rows})", {column.name for column in inputs.item_as_of}
        versions = f"read_parquet({file_pattern(self._paths.item_versions, '*.parquet')})"
        known = f"read_parquet({file_pattern(self._paths.users)}, file_row_number=true)"
        users = f"(SELECT *, file_row_number AS row FROM {known})"
        catalogued = f"read_parquet({file_pattern(self._paths.items)}, file_row_number=true)"
        items = f"(SELECT *, file_row_number AS item_row FROM {catalogued})"

        def locate(side: Side, column: str) -> tuple[str, str]:
            if side == "user" and column == inputs.user_id:
                return (
                    f"{examples} AS e JOIN {users} AS u ON u.row = e.user_row",
                    f"u.{quote_identifier(f'user.{column}')}",
                )
            if side == "user":
                return examples, quote_identifier(f"user.{column}")
            if column in varying:
                rows = f"{examples} AS e JOIN {versions} AS v ON v.version = e.item_version"
                return rows, "v." + quote_identifier(f"item.{column}")
            return f"{examples} AS e JOIN {items} AS i ON i.item_row = e.item_row", f"i.{quote_identifier(column)}"

        artifacts.write_json(
            self._paths.statistics, statistics.compute_statistics(self._connection, self._config, locate)
        )

    def _describe(self, inputs: Inputs) -> dict[str, Any]:
        """Describes the splits, the catalogue, the columns and the input files, for the manifest."""
        found = self._connection.execute(
            "SELECT split, count(*), count(*) FILTER (label = 1), count(DISTINCT user_row), count(DISTINCT item_row), "
            "min(ts), max(ts) FROM split_events GROUP BY split"
        ).fetchall()
        by_split = {SPLITS[code]: counts for code, *counts, _, _ in found}
        first, last = (timestamps.seconds_sql(f"{end}(ts)") for end in ("min", "max"))
        times = fetch_row(self._connection, f"SELECT {first}, {last} FROM split_events")
        return {
            "schema_version": SCHEMA_VERSION,
            "engine": "spark" if isinstance(self._connection, Cluster) else "duckdb",
            "config_fingerprint": configuration.fingerprint(self._config),
            "splits": {
                split: dict(zip(("rows", "positives", "users", "items"), by_split.get(split, [0] * 4), strict=True))
                for split in SPLITS
            },
            "items": pq.read_metadata(self._paths.items).num_rows,
            "users": pq.read_metadata(self._paths.users).num_rows,
            "time_range": list(times) if times[0] is not None else None,
            "split_times": {SPLITS[code]: [first, last] for code, *_, first, last in found if first is not None},
            "item_columns_as_of": [column.name for column in inputs.item_as_of],
            "user_columns_by_row": [each.name for each in inputs.user_from_events if each not in inputs.user_as_of],
            "columns": {
                "user": _describe_columns(inputs.user_from_events, inputs.user_from_table, "users"),
                "item": _describe_columns(inputs.item_from_events, inputs.item_from_table, "items"),
            },
            "keys": [*training_rows.KEYS, *inputs.keys],
            "inputs": [
                input_files.describe_file(source) for table in inputs.tables.values() for source in table.sources
            ],
        }


def _describe_columns(
    from_events: Sequence[FeatureColumn], from_table: Sequence[FeatureColumn], table: str
) -> dict[str, dict[str, str]]:
    """Describes the source columns of a side's features: their kind, and the table of their values."""
    places = [(column, "events") for column in from_events] + [(column, table) for column in from_table]
    return {column.name: {"kind": column.kind, "from": place} for column, place in places}
