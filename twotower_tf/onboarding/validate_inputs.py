"""Validates every input file against the configuration and reports all problems at once.

The structure of each file (compression, header, schema) is checked as a whole. The rows of small tables, and a sample
of those of larger ones, are read by the steps of the preparation: what these would refuse is a problem, a row that they
would set aside is a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from twotower_tf.config import ExperimentConfig
from twotower_tf.config.checks import check_batch_size, list_causal_histories
from twotower_tf.errors import ConfigError, DataError
from twotower_tf.prepare import catalogue, input_warnings, row_rules, schema, splits, unusable_tables
from twotower_tf.prepare.schema import Inputs
from twotower_tf.progress import Progress, silent
from twotower_tf.sql import Connection
from twotower_tf.tables import delimited_header, input_files, quarantine, row_sample
from twotower_tf.tables.duckdb_engine import fetch_row
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table
from twotower_tf.tables.read_options import TableName
from twotower_tf.tables.readers import parquet

_REPORTED = 5  # rows of one reason and file


@dataclass
class Report:
    """Result of the validation.

    Attributes:
        problems: one line each, with file and line or column.
        notes: warnings: what the preparation would set aside or leave out, and what is odd.
        files: number of files checked, by table.
        rows: number of rows checked, by table.
        whole: tables of which all rows were checked.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)


def validate_tables(
    connection: Connection, config: ExperimentConfig, directory: Path, progress: Progress = silent
) -> Report:
    """Checks every file of the configuration; samples go to small files in `directory`, which the caller removes."""
    report = Report()
    found: dict[TableName, list[InputFile]] = {}
    for name in schema.TABLES:
        try:
            found[name] = schema.find_table(config.data, name)
        except DataError as error:
            report.problems.append(str(error))
            found[name] = []
    total, done = sum(map(len, found.values())), 0
    samples: dict[TableName, list[InputFile]] = {}
    for name, sources in found.items():
        samples[name] = []
        if sum(source.path.stat().st_size for source in sources) <= row_sample.WHOLE_BYTES:
            report.whole.add(name)
        for source in sources:
            progress("validate", done, total)
            done += 1
            try:
                whole = name in report.whole
                sample = (
                    row_sample.check_file(source, directory) if whole else row_sample.sample_file(source, directory)
                )
                samples[name].append(sample)
            except DataError as error:
                report.problems.append(str(error))
        report.files[name] = len(sources)
        _check_schemas(config, name, samples[name], report)
    progress("validate", total, total)
    if all(samples[name] for name in schema.TABLES if getattr(config.data, name)):
        _check_rows(connection, config, samples, report)
    return report


def _check_schemas(config: ExperimentConfig, name: str, sources: list[InputFile], report: Report) -> None:
    """Checks schemas against each other; drops files that cannot be read with the others."""
    if not sources:
        return
    if sources[0].suffix in input_files.PARQUET:
        schemas = [pq.read_schema(source.path) for source in sources]
        wanted = schema.select_event_columns(config) if name == "events" else lambda column: True
        misfits = list(parquet.find_type_conflicts(sources, schemas, wanted))
        report.problems += [misfit for _, misfit in misfits]
        sources[:] = [source for source in sources if source not in {at_fault for at_fault, _ in misfits}]
        return
    if sources[0].suffix not in input_files.DELIMITERS:
        return
    heads = {source.name: delimited_header.read_header(source) for source in sources}
    if name != "events":
        return
    known = {column for head in heads.values() if head for column in head.names}
    for field_name, column in schema.list_required_columns(config).items():
        lacking = [source for source, head in heads.items() if head and column not in head.names]
        if column in known:  # the first of them is reported with the other columns
            report.problems += [schema.describe_lacking(field_name, source, column) for source in lacking[1:]]


def _check_rows(
    connection: Connection, config: ExperimentConfig, samples: dict[TableName, list[InputFile]], report: Report
) -> None:
    """Reads the rows by the steps of the preparation."""
    try:
        tables = schema.read_tables(connection, config, samples)
    except DataError as error:
        report.problems.append(str(error))
        return
    for name, table in tables.items():
        report.rows[name] = table.rows
        report.problems += unusable_tables.find_unreadable(connection, config.data, name, table)
    if not all(table.known for table in tables.values()):
        return  # without a header nothing in it is known
    misfits = list(schema.find_mismatches(config, tables))
    report.problems += misfits
    rejected: dict[TableName, list[tuple[int, str]]] = {}
    if not misfits and tables["events"].rows:
        inputs = Inputs.of(config, tables)
        rules = row_rules.RowRules(connection, config, inputs)
        report.problems += rules.faults
        if not rules.faults:
            rules.create_validated_events(connection)
            rejected["events"] = row_rules.fetch_rejected(connection)
        _check_side_tables(connection, config, inputs, rejected, report)
    _note_rejected(connection, tables, rejected, report)
    if not report.problems:
        _check_whole(connection, config, inputs, report)


def _check_side_tables(
    connection: Connection,
    config: ExperimentConfig,
    inputs: Inputs,
    rejected: dict[TableName, list[tuple[int, str]]],
    report: Report,
) -> None:
    """Reduces item and user tables to their latest rows; adds rows that cannot be used to `rejected`."""
    for name, table in inputs.side_tables.items():
        try:
            _, rejected[name] = catalogue.create_latest_rows(connection, config.data, name, table)
        except DataError as error:
            report.problems.append(str(error))
            continue
        if table.rows:
            report.problems += unusable_tables.find_unusable(connection, name, table, rejected[name])


def _note_rejected(
    connection: Connection,
    tables: Mapping[TableName, Table],
    rejected: Mapping[TableName, list[tuple[int, str]]],
    report: Report,
) -> None:
    """Notes rows that the preparation would set aside, the first few of each file and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, table in tables.items():
        entries = quarantine.build_entries(connection, table, rejected.get(name, []))
        for entry in entries:
            kind = entry["reason"].split("'")[0]
            found.setdefault((entry["file"], kind), []).append(f"{quarantine.format_place(entry)}: {entry['reason']}")
        report.notes += input_warnings.describe_rejected(name, table, entries)
    for (file, _), lines in found.items():
        report.notes += lines[:_REPORTED]
        if len(lines) > _REPORTED:
            report.notes.append(f"{file}: {len(lines) - _REPORTED} more rows like the last")


def _check_whole(connection: Connection, config: ExperimentConfig, inputs: Inputs, report: Report) -> None:
    """Notes what is odd about the tables; of a log that was read as a whole, checks split and batch size."""
    for name, table in inputs.tables.items():
        report.notes += input_warnings.find_file_warnings(config.data, name, table)
    if inputs.side_tables.keys() <= report.whole:
        report.notes += input_warnings.find_unmatched(connection, inputs)
    report.notes += input_warnings.find_marked(connection, config, inputs)
    if "events" not in report.whole:
        return
    (invalid,) = fetch_row(connection, "SELECT count(*) FILTER (reason IS NOT NULL) FROM validated_events")
    try:
        row_rules.account_rows(connection, config, inputs, invalid + len(inputs.events.malformed))
        catalogue.number_ids(connection, inputs)
        splits.assign_splits(connection, config)
        check_batch_size(config.batch_size, *_count_training_rows(connection, config))
    except (ConfigError, DataError) as error:
        report.problems.append(str(error))


def _count_training_rows(connection: Connection, config: ExperimentConfig) -> tuple[int, str]:
    """Counts the training rows of `split_events`, and returns what they are: events, users, or windows of sequences."""
    labelled = any(each.type == "Labelled" for each in config.sampling.negatives or ())
    chosen = "split = 0" if labelled else "split = 0 AND label = 1"
    if config.train.by_user:
        users = fetch_row(connection, f"SELECT count(DISTINCT user_row) FROM split_events WHERE {chosen}")[0]
        return users, "users with training positives"
    if not config.train.sequences:
        return fetch_row(connection, f"SELECT count(*) FROM split_events WHERE {chosen}")[0], "training rows"
    (history, *_) = list_causal_histories(config.user_features)
    moment = "ts" if config.data.timestamp else "place"
    # what `Windows` counts: of each user from the oldest to the newest place that a row's history ends at
    (windows,) = fetch_row(
        connection,
        f"""
        WITH histories AS (
            SELECT user_row, split, label, count(*) FILTER (split = 0 AND label = 1) OVER (
                PARTITION BY user_row ORDER BY {moment} RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS size FROM split_events
        ), spans AS (
            SELECT max(size) - coalesce(min(size) FILTER (size > 0), 0) + 1 AS span
            FROM histories WHERE {chosen} GROUP BY user_row
        )
        SELECT CAST(sum(ceil(span / {history.length})) AS BIGINT) FROM spans
        """,
    )
    return windows, "windows of users' sequences"
