"""Rows that cannot be used, set aside with their file, line, reason and text."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from twotower_tf.data import files, lines
from twotower_tf.data.tables import Table

_BATCH = 10_000


def entries(
    connection: duckdb.DuckDBPyConnection, table: Table, rows: Sequence[tuple[int, str]]
) -> list[dict[str, Any]]:
    """One object per malformed record and per row of `rows`, in input order.

    Args:
        connection: where the table lives.
        table: the input table.
        rows: (place, reason) of its bad rows.

    Returns:
        `{"file", "line", "reason", "text"}`; for Parquet `"row"`, from 1, stands for the line.
    """
    by_source: dict[int, dict[int, str]] = defaultdict(dict)
    for place, reason in rows:
        index, position = table.locate(place)
        by_source[index][position] = reason
    malformed: dict[str, list[lines.Malformed]] = defaultdict(list)
    for record in table.malformed:
        malformed[record.source.name].append(record)
    found: list[dict[str, Any]] = []
    for index, source in enumerate(table.sources):
        reasons, broken = by_source.get(index, {}), malformed.get(source.name, [])
        if not reasons and not broken:
            continue
        if source.suffix in files.PARQUET:
            found += _parquet_entries(connection, table, index, reasons)
            continue
        good, bad = lines.find(source, reasons.keys(), broken)
        of_file = [(good[position], reason) for position, reason in reasons.items()]
        of_file += [
            (bad.get(record.record, lines.Place(record.record, record.text)), record.reason) for record in broken
        ]
        of_file.sort(key=lambda pair: pair[0].line)
        found += [
            {"file": source.name, "line": place.line, "reason": reason, "text": place.text} for place, reason in of_file
        ]
    return found


def _parquet_entries(
    connection: duckdb.DuckDBPyConnection, table: Table, index: int, reasons: Mapping[int, str]
) -> list[dict[str, Any]]:
    start = table.starts[index]
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
            text = json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)
            found.append(
                {"file": table.sources[index].name, "row": position + 1, "reason": reasons[position], "text": text}
            )
    return found


def where(connection: duckdb.DuckDBPyConnection, table: Table, place: int) -> str:
    """`FILE:LINE` of a row, or `FILE row N` of Parquet."""
    entry = next(entry for entry in entries(connection, table, [(place, "")]) if entry["reason"] == "")
    return f"{entry['file']} row {entry['row']}" if "row" in entry else f"{entry['file']}:{entry['line']}"


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes `quarantine.jsonl`; an empty file says that nothing was set aside."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
