"""Reports tables without a usable row, and the settings with which their files could be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from twotower_tf.config import DataConfig
from twotower_tf.sql import Connection
from twotower_tf.tables import csv_records, quarantine
from twotower_tf.tables.detect_format import detect_format
from twotower_tf.tables.input_table import Table

# by reason of a malformed record: the settings that may be at fault, and the share of such rows that is not a slip
_FAULTS: dict[str, tuple[tuple[str, ...], float]] = {
    csv_records.BROKEN_QUOTE: (("quote", "escape"), 0.02),
    csv_records.NOT_UTF8: (("encoding",), 0.002),
}


def find_unreadable(connection: Connection, data: DataConfig, name: str, table: Table) -> Iterator[str]:
    """Yields the error of a table ("events", "items", "users") without rows, or of which no row can be read."""
    if not table.rows and not table.malformed:
        yield f"data.{name}: {Path(data.root) / getattr(data, name)}: no rows"
    yield from find_unusable(connection, name, table)


def find_unusable(
    connection: Connection, name: str, table: Table, rejected: Sequence[tuple[int, str]] = ()
) -> Iterator[str]:
    """Yields the error of a table of which every row is set aside, with the first of them.

    `rejected` has places and reasons of rows that can be read but not used.
    """
    rows = table.rows + len(table.malformed)
    if not rows or len(rejected) < table.rows:
        return
    first = quarantine.build_entries(connection, table, rejected)[0]
    yield (
        f"data.{name}: none of {rows} records can be {'used' if rejected else 'read'}; the first, "
        f"{quarantine.format_place(first)}: {first['reason']}{suggest_format(name, table)}"
    )


def suggest_format(name: str, table: Table) -> str:
    """Returns the settings with which a delimited file could be read whose quotes or bytes break many rows; or ""."""
    at_fault = [each for each in table.malformed if each.reason in _FAULTS]
    if not at_fault:
        return ""
    settings, share = _FAULTS[at_fault[0].reason]
    if len(at_fault) < share * (table.rows + len(table.malformed)):
        return ""
    broken = dataclasses.replace(at_fault[0].source, path=at_fault[0].source.original or at_fault[0].source.path)
    detected = detect_format(broken).options.text
    found = {
        mark: getattr(detected, mark)
        for mark in settings
        if getattr(detected, mark) != getattr(broken.options.text, mark)
    }
    if not found:
        return ""
    text = ", ".join(f"{mark}={value!r}" for mark, value in found.items())
    return f"; set data.{text}" if name == "events" else f"; set data.{name[:-1]}_format=TextFormat({text})"
