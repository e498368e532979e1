"""Reads TFRecord files of `tf.Example` as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from twotower_tf.sql import Connection
from twotower_tf.tables import csv_records, tfrecords
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Column, Table, Wanted
from twotower_tf.tables.readers import scans


def read_tfrecords(connection: Connection, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
    """Reads the examples batch by batch; a column is created with the first example that has it."""
    known: dict[str, None] = {}
    columns: dict[str, Column] = {}
    malformed: list[csv_records.MalformedRecord] = []
    connection.execute(f"CREATE TABLE {name} (source INTEGER)")

    def add(column: str) -> None:
        columns[column] = Column(f"c{len(columns)}", scans.TEXT)
        connection.execute(f"ALTER TABLE {name} ADD COLUMN {columns[column].identifier} {scans.TEXT}")

    for position, source in enumerate(sources):
        for rows, bad in tfrecords.read_examples(source, wanted):
            malformed += bad
            found = dict.fromkeys(key for row in rows for key in row if scans.is_usable_name(key))
            for key in found:
                if key not in known and wanted(key):
                    add(key)
            known |= found
            read = [key for key in found if key in columns]
            table = pa.table(
                {"source": pa.array([position] * len(rows), pa.int32())}
                | {columns[key].identifier: pa.array([row.get(key) for row in rows], pa.string()) for key in read}
            )
            connection.register("tfrecord_batch", table)
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM tfrecord_batch")
            connection.unregister("tfrecord_batch")
    partition = scans.list_partition_keys(sources, known)
    for key in filter(wanted, partition):
        add(key)
        values = scans.partition_values(sources, key)
        connection.execute(f"UPDATE {name} SET {columns[key].identifier} = list_extract([{values}], source + 1)")
    return Table(name, sources, columns, [*known, *partition], malformed)
