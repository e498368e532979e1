"""Validates every input file against the configuration and reports all problems at once.

The structure of each file (compression, header, schema) is checked as a whole; a sample of its rows is read by the
steps of the preparation. A row that these would set aside is a problem here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from twotower_tf.config import ExperimentConfig
from twotower_tf.errors import DataError
from twotower_tf.prepare import catalogue, row_rules, schema
from twotower_tf.prepare.schema import Inputs
from twotower_tf.progress import Progress, silent
from twotower_tf.tables import delimited_header, input_files, input_table, quarantine, readers, row_sample
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.readers import parquet

_REPORTED = 5  # rows of one reason and file


@dataclass
class Report:
    """Result of the validation.

    Attributes:
        problems: one line each, with file and line or column.
        notes: remarks that are not problems.
        files: number of files checked, by table.
        rows: number of rows checked, by table.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def validate_tables(
    connection: duckdb.DuckDBPyConnection, config: ExperimentConfig, directory: Path, progress: Progress = silent
) -> Report:
    """Checks every file of the configuration.

    Args:
        connection: that samples are read into.
        config: the experiment.
        directory: for small files; the caller removes it.
        progress: called for each file.
    """
    report = Report()
    found: dict[str, list[InputFile]] = {}
    for table in schema.TABLES:
        try:
            found[table] = schema.find_table(config.data, table)
        except DataError as error:
            report.problems.append(str(error))
            found[table] = []
    total, done = sum(map(len, found.values())), 0
    samples: dict[str, list[InputFile]] = {}
    for name, sources in found.items():
        samples[name] = []
        for source in sources:
            progress("validate", done, total)
            done += 1
            try:
                samples[name].append(row_sample.sample_file(source, directory))
            except DataError as error:
                report.problems.append(str(error))
        report.files[name] = len(sources)
        _shapes(config, name, samples[name], report)
    progress("validate", total, total)
    missing = [name for name in schema.TABLES if getattr(config.data, name) and not samples[name]]
    if not missing:
        _rows(connection, config, samples, report)
    return report


def _shapes(config: ExperimentConfig, name: str, sources: list[InputFile], report: Report) -> None:
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
    report.notes += [f"{source} is empty" for source, head in heads.items() if head is None]
    if name != "events":
        return
    known = {column for head in heads.values() if head for column in head.names}
    for field_name, column in schema.list_required_columns(config).items():
        lacking = [source for source, head in heads.items() if head and column not in head.names]
        if column in known:  # the first of them is reported with the other columns
            report.problems += [
                f"{field_name}: {source} has no column {column!r}, unlike other files of data.events"
                for source in lacking[1:]
            ]


def _rows(
    connection: duckdb.DuckDBPyConnection,
    config: ExperimentConfig,
    samples: dict[str, list[InputFile]],
    report: Report,
) -> None:
    read: dict[str, input_table.Table | None] = {}
    wanted = {"events": schema.select_event_columns(config)}
    for name, table in (("events", "events"), ("items", "item_table"), ("users", "user_table")):
        try:
            keep = wanted.get(name, lambda column: True)
            read[name] = readers.read_table(connection, table, samples[name], keep) if samples[name] else None
        except DataError as error:
            report.problems.append(str(error))
            return
    events, items, users = (read[name] for name in schema.TABLES)
    if events is None:
        return
    for name, each in read.items():
        if each is not None:
            report.rows[name] = each.rows
            report.problems += schema.find_empty(config.data, name, each)
    if any(each is not None and not each.known for each in read.values()):
        return  # without a header nothing in it is known
    misfits = list(schema.find_mismatches(config, events, items, users))
    report.problems += misfits
    if misfits or not events.rows:
        _malformed(connection, config, [events, items, users], {}, report)
        return
    from_events, from_table = schema.divide_columns(config, "user", events, users)
    item_from_events, item_from_table = schema.divide_columns(config, "item", events, items)
    inputs = Inputs(events, items, users, from_events, from_table, item_from_events, item_from_table)
    faults = list(row_rules.find_faults(connection, config, inputs))
    report.problems += faults
    rejected: dict[str, list[tuple[int, str]]] = {}
    if not faults:
        row_rules.validate_events(connection, config, inputs)
        rejected["events"] = connection.execute(
            "SELECT place, reason FROM validated_events WHERE reason IS NOT NULL ORDER BY place"
        ).fetchall()
    data = config.data
    for each, column, side, since in (
        (items, data.item_id, "item", data.items_time),
        (users, data.user_id, "user", data.users_time),
    ):
        if each is None:
            continue
        try:
            _, rejected[each.name] = catalogue.create_latest_rows(connection, each, column, data.timestamp, side, since)
        except DataError as error:
            report.problems.append(str(error))
    _malformed(connection, config, [events, items, users], rejected, report)


def _malformed(
    connection: duckdb.DuckDBPyConnection,
    config: ExperimentConfig,
    read: Sequence[input_table.Table | None],
    rejected: dict[str, list[tuple[int, str]]],
    report: Report,
) -> None:
    """Reports rows that the preparation would set aside, the first few of each file and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for table in read:
        if table is None:
            continue
        entries: list[dict[str, Any]] = quarantine.build_entries(connection, table, rejected.get(table.name, []))
        for entry in entries:
            kind = entry["reason"].split("'")[0]
            found.setdefault((entry["file"], kind), []).append(f"{quarantine.format_place(entry)}: {entry['reason']}")
    for (file, _), lines in found.items():
        report.problems += lines[:_REPORTED]
        if len(lines) > _REPORTED:
            report.problems.append(f"{file}: {len(lines) - _REPORTED} more rows like the last in the sample")
