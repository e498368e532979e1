"""Reads delimited text: CSV, TSV and the like, with or without a header, plain or compressed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import duckdb

from twotower_tf.sql import Connection, quote_literal
from twotower_tf.tables import csv_records, delimited_header, duckdb_engine, input_files, text_encoding
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted
from twotower_tf.tables.read_options import ReadOptions
from twotower_tf.tables.readers import scans
from twotower_tf.tables.text_marks import Marks


def read_delimited(connection: Connection, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
    """Reads the files; those in which a broken record swallowed others are repaired and read again."""
    for source in sources:
        input_files.check_archive(source)
    work = duckdb_engine.find_work_directory(connection)
    sources = [text_encoding.convert_file(source, work) for source in sources]
    broken: list[csv_records.MalformedRecord] = []
    found: Table | list[int] = [at for at, source in enumerate(sources) if csv_records.begins_broken(source)]
    while isinstance(found, list):
        for position in found:
            sources[position], records = csv_records.repair_file(sources[position], work)
            broken += records
        connection.execute(f"DROP TABLE IF EXISTS {name}")
        found = _scan(connection, name, sources, wanted)
    found.malformed = broken + found.malformed
    return found


def _scan(connection: Connection, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table | list[int]:
    """Returns the table, or the positions of files to repair first."""
    heads = [delimited_header.read_header(source) for source in sources]
    known: dict[str, None] = {}
    for header in heads:
        known.update(dict.fromkeys(filter(scans.is_usable_name, header.names) if header else ()))
    partition = scans.list_partition_keys(sources, known)
    columns = scans.select_columns(list(known), wanted, partition)
    scans.create_table(connection, name, columns)
    malformed: list[csv_records.MalformedRecord] = []
    groups = itertools.groupby(range(len(sources)), key=lambda at: (heads[at], scans.compression(sources[at])))
    for (header, compression), members in groups:  # consecutive files with one header: one scan
        positions = list(members)
        if header is None:
            continue
        names, delimiter = header
        paths = scans.file_list([sources[position] for position in positions])
        fields = ", ".join(f"{quote_literal(f'f{index}')}: 'VARCHAR'" for index in range(len(names)))
        options = sources[positions[0]].options
        values = [
            _value(f"f{names.index(column)}", options)
            if column in names
            else scans.partition_value(sources, positions, column)
            if column in partition
            else "NULL"
            for column in columns
        ]
        scan = (
            f"read_csv([{paths}], columns={{{fields}}}, header={'false' if sources[0].columns else 'true'}, "
            f"auto_detect=false, delim={quote_literal(delimiter)}, "
            f"quote={quote_literal(options.quote)}, escape={quote_literal(options.escape)}, "
            f"compression='{compression}', filename='{scans.FILE_COLUMN}', {scans.COLLECT_REJECTED})"
        )
        try:
            connection.execute(
                f"INSERT INTO {name} SELECT {', '.join([scans.file_position(sources, positions), *values])} FROM {scan}"
            )
        except duckdb.Error as error:
            mixed = [
                at for at in positions if _repairable(sources[at], names) and scans.has_mixed_ends(sources[at], error)
            ]
            if mixed:
                return mixed
            raise scans.build_read_error([sources[position] for position in positions], error) from None
        malformed += csv_records.take_rejected(connection, [sources[position] for position in positions])
        marks = Marks.of(options, delimiter)
        swallowed = {record.source.path for record in malformed if csv_records.may_hold_others(record, marks)}
        suspects = [at for at in positions if sources[at].path in swallowed and _repairable(sources[at], names)]
        if suspects:
            return suspects
    lacking = scans.find_missing_columns(sources, [header.names if header else None for header in heads])
    unnamed = [source for source, header in zip(sources, heads, strict=True) if header and "" in header.names]
    return Table(name, sources, columns, [*known, *partition], malformed, lacking=lacking, unnamed=unnamed)


def _repairable(source: InputFile, names: Sequence[str]) -> bool:
    """Tests whether a file can be repaired and is not yet; in a single column an empty line would be a row."""
    return not source.repaired and len(names) > 1


def _value(field: str, options: ReadOptions) -> str:
    """Returns SQL of a field's value."""
    if options.text.decimal == ",":
        number = f"regexp_full_match({field}, '[+-]?[0-9]*,[0-9]+([eE][+-]?[0-9]+)?')"
        field = f"CASE WHEN {number} THEN replace({field}, ',', '.') ELSE {field} END"
    return scans.present_text(field, options.null_values)
