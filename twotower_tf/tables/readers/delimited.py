"""Reads delimited text: CSV, TSV and the like, with or without a header, plain or compressed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import duckdb

from twotower_tf.sql import quote_literal
from twotower_tf.tables import csv_records, input_files
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted
from twotower_tf.tables.readers import scans


def read_delimited(
    connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[InputFile], wanted: Wanted
) -> Table:
    """Reads the files; those in which a broken record swallowed others are repaired and read again."""
    for source in sources:
        input_files.check_archive(source)
    broken: list[csv_records.MalformedRecord] = []
    found = _scan(connection, name, sources, wanted)
    while isinstance(found, list):
        connection.execute(f"DROP TABLE {name}")
        sources = list(sources)
        for position in found:
            sources[position], records = csv_records.repair_file(sources[position], work_directory(connection))
            broken += records
        found = _scan(connection, name, sources, wanted)
    found.malformed = broken + found.malformed
    return found


def _scan(
    connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[InputFile], wanted: Wanted
) -> Table | list[int]:
    """Returns the table, or the positions of files to repair first."""
    heads = [input_files.read_header(source) for source in sources]
    known: dict[str, None] = {}
    for header in heads:
        known.update(dict.fromkeys(header[0] if header else ()))
    partition = scans.partition_keys(sources, known)
    columns = scans.select_columns(list(known), wanted, partition)
    scans.create_table(connection, name, columns)
    malformed: list[csv_records.MalformedRecord] = []
    groups = itertools.groupby(range(len(sources)), key=lambda position: heads[position])
    for header, members in groups:  # consecutive files with one header: one scan
        positions = list(members)
        if header is None:
            continue
        names, delimiter = header
        paths = scans.file_list([sources[position] for position in positions])
        fields = ", ".join(f"{quote_literal(f'f{index}')}: 'VARCHAR'" for index in range(len(names)))
        values = [
            f"f{names.index(column)}"
            if column in names
            else scans.partition_value(sources, positions, column)
            if column in partition
            else "NULL"
            for column in columns
        ]
        scan = (
            f"read_csv([{paths}], columns={{{fields}}}, header={'false' if sources[0].columns else 'true'}, "
            f"auto_detect=false, delim={quote_literal(delimiter)}, "
            f"quote='\"', escape='\"', filename='{scans.FILE_COLUMN}', store_rejects=true, rejects_limit=0)"
        )
        try:
            connection.execute(
                f"INSERT INTO {name} SELECT {', '.join([scans.file_position(sources, positions), *values])} FROM {scan}"
            )
        except duckdb.Error as error:
            mixed_ends = [at for at in positions if "invalid state" in str(error) and _repairable(sources[at], names)]
            mixed_ends = [at for at in mixed_ends if str(sources[at].path) in str(error)]
            if mixed_ends:
                return mixed_ends
            raise scans.read_error([sources[position] for position in positions], error) from None
        malformed += csv_records.take_rejected(connection, [sources[position] for position in positions])
        swallowed = {record.source.path for record in malformed if record.lines}
        suspects = [at for at in positions if sources[at].path in swallowed and _repairable(sources[at], names)]
        if suspects:
            return suspects
    lacking = scans.find_missing_columns(sources, [header[0] if header else None for header in heads])
    return Table(name, sources, columns, [*known, *partition], malformed, lacking=lacking)


def _repairable(source: InputFile, names: Sequence[str]) -> bool:
    """Tests whether a file can be repaired and is not yet; in a single column an empty line would be a row."""
    return source.original is None and len(names) > 1


def work_directory(connection: duckdb.DuckDBPyConnection) -> Path:
    """Returns the directory for files that last as long as this DuckDB."""
    ((directory,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    return Path(directory).parent / "work"
