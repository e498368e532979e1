"""Reports rows that cannot be used, with their file, line, reason and text (`quarantine.jsonl`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf.characters import escape_line
from twotower_tf.sql import Connection
from twotower_tf.tables import csv_records, input_files, json_layout
from twotower_tf.tables.input_table import Table

_BATCH = 10_000


def build_entries(connection: Connection, table: Table, rows: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Builds one object per malformed record and per row of `rows`, in input order.

    Args:
        connection: with the table.
        table: the input table.
        rows: (place, reason) of its bad rows.

    Returns:
        `{"file", "line", "reason", "text"}`; instead of the line, Parquet has `"row"`, TFRecords and JSON arrays have
        `"record"`, from 1.
    """
    by_source: dict[int, dict[int, str]] = defaultdict(dict)
    for place, reason in rows:
        index, position = table.locate(place)
        by_source[index][position] = escape_line(reason)
    malformed: dict[str, list[csv_records.MalformedRecord]] = defaultdict(list)
    for record in table.malformed:
        malformed[record.source.name].append(record)
    found: list[dict[str, Any]] = []
    for index, source in enumerate(table.sources):
        reasons, broken = by_source.get(index, {}), malformed.get(source.name, [])
        if not reasons and not broken:
            continue
        if source.suffix in input_files.PARQUET:
            found += _build_row_entries(connection, table, index, reasons, "row", lambda position: position + 1)
            continue
        if source.suffix in input_files.TFRECORDS or json_layout.is_whole(source):
            found += _build_record_entries(connection, table, index, reasons, broken)
            continue
        good, bad = csv_records.locate_records(source, reasons.keys(), broken)
        of_file = [(good[position], reason) for position, reason in reasons.items()]
        of_file += [(_locate(record, bad.get(record.record)), record.reason) for record in broken]
        of_file.sort(key=lambda pair: pair[0].line)
        found += [
            {"file": source.name, "line": source.number(place.line), "reason": reason, "text": place.text}
            for place, reason in of_file
        ]
    return found


def _locate(record: csv_records.MalformedRecord, read: csv_records.RecordPlace | None) -> csv_records.RecordPlace:
    """Returns the line of a malformed record, with the text that is known of it; a repaired file has empty lines."""
    place = read or csv_records.RecordPlace(record.record, "")
    return csv_records.RecordPlace(place.line, place.text or record.text)


def _build_record_entries(
    connection: Connection,
    table: Table,
    index: int,
    reasons: Mapping[int, str],
    broken: Sequence[csv_records.MalformedRecord],
) -> list[dict[str, Any]]:
    """Builds the entries of a TFRecord file or a JSON array, by record number."""
    source, malformed = table.sources[index], {record.record for record in broken}
    rows = table.starts[index + 1] - table.starts[index]
    numbers = [number for number in range(1, rows + len(malformed) + 1) if number not in malformed]
    entries = _build_row_entries(connection, table, index, reasons, "record", numbers.__getitem__)
    entries += [
        {"file": source.name, "record": source.number(record.record), "reason": record.reason, "text": record.text}
        for record in broken
    ]
    return sorted(entries, key=lambda entry: int(entry["record"]))


def _build_row_entries(
    connection: Connection, table: Table, index: int, reasons: Mapping[int, str], key: str, number: Callable[[int], int]
) -> list[dict[str, Any]]:
    """Builds the entries of rows that have a number, under `key`, and no line; their text is JSON of the values."""
    source, start = table.sources[index], table.starts[index]
    names = list(table.columns)
    fields = ", ".join(f"CAST({column.identifier} AS VARCHAR)" for column in table.columns.values())
    found = []
    positions = sorted(reasons)
    for first in range(0, len(positions), _BATCH):
        batch = positions[first : first + _BATCH]
        places = ", ".join(str(start + position) for position in batch)
        rows = connection.execute(
            f"SELECT rowid{', ' + fields if fields else ''} FROM {table.name} WHERE rowid IN ({places}) ORDER BY rowid"
        ).fetchall()
        for place, *values in rows:
            position = place - start
            text = artifacts.format_json(dict(zip(names, values, strict=True)))
            found.append(
                {"file": source.name, key: source.number(number(position)), "reason": reasons[position], "text": text}
            )
    return found


def format_row_place(connection: Connection, table: Table, place: int) -> str:
    """Formats the place of a row: `FILE:LINE`, `FILE row N` of Parquet, `FILE record N` of TFRecords."""
    return format_place(
        next(entry for entry in build_entries(connection, table, [(place, "")]) if entry["reason"] == "")
    )


def format_example(connection: Connection, table: Table, column: str, condition: str) -> str:
    """Formats the first row that meets a condition as ` e.g. 'VALUE' at FILE:LINE`; "" where there is none."""
    expression = table.columns[column].identifier
    found = connection.execute(
        f"SELECT rowid, CAST({expression} AS VARCHAR) FROM {table.name} WHERE {condition} ORDER BY rowid LIMIT 1"
    ).fetchall()
    return "".join(f" e.g. {value!r} at {format_row_place(connection, table, place)}" for place, value in found)


def format_place(entry: Mapping[str, Any]) -> str:
    """Formats the place of an entry."""
    key = next((key for key in ("row", "record") if key in entry), "")
    return f"{entry['file']} {key} {entry[key]}" if key else f"{entry['file']}:{entry['line']}"


def write_entries(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `quarantine.jsonl`; an empty file means that no row was set aside."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(artifacts.format_json(row) + "\n")
