"""Reads the files of one format into one table whose rows are in input order.

Delimited text, JSON lines and TFRecords are read as text and typed later, by the role of a column, so that no value is
lost to a guessed type. Malformed records (wrong field count, broken quotes, invalid JSON, bytes that are not UTF-8) are
set aside with their file and line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from twotower_tf.sql import Connection
from twotower_tf.tables import input_files
from twotower_tf.tables.cluster import Cluster
from twotower_tf.tables.input_files import InputFile
from twotower_tf.tables.input_table import Table, Wanted
from twotower_tf.tables.readers import delimited, json_tables, parquet, tfrecord_tables


def read_table(connection: Connection, name: str, sources: Sequence[InputFile], wanted: Wanted) -> Table:
    """Reads the columns that are `wanted` (by name) of the files into the table `name`.

    A column missing from a file is NULL there; the caller decides whether that is acceptable (`Table.known`).

    Raises:
        DataError: for a file that cannot be read.
    """
    if isinstance(connection, Cluster):
        return connection.read_table(name, sources, wanted)
    if sources[0].suffix in input_files.PARQUET:
        table = parquet.read_parquet(connection, name, sources, wanted)
    elif sources[0].suffix in input_files.JSON:
        table = json_tables.read_json(connection, name, sources, wanted)
    elif sources[0].suffix in input_files.TFRECORDS:
        table = tfrecord_tables.read_tfrecords(connection, name, sources, wanted)
    else:
        table = delimited.read_delimited(connection, name, sources, wanted)
    counts = dict(connection.execute(f"SELECT source, count(*) FROM {name} GROUP BY source").fetchall())
    sizes = [counts.get(position, 0) for position in range(len(sources))]
    table.starts = [0, *itertools.accumulate(sizes)]
    return table
