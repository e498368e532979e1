"""Every format becomes one table whose rows stand in input order.

Delimited text, JSON lines and TFRecords are read as text and typed later, by the role of a column; nothing is lost to a
guessed type. Records that are no records (wrong field count, broken quotes, no JSON, bytes that are not UTF-8) are set
aside with their file and line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import duckdb

from twotower_tf.data import files
from twotower_tf.data.engine import Cluster
from twotower_tf.data.files import Source
from twotower_tf.data.readers import delimited, examples, json_lines, parquet
from twotower_tf.data.tables import Table, Wanted


def read(connection: duckdb.DuckDBPyConnection, name: str, sources: Sequence[Source], wanted: Wanted) -> Table:
    """Reads the columns that are `wanted` (told by their name) of the files into the table `name`.

    Columns that some file lacks are NULL there; whether that is acceptable is the caller's to decide (`known`).

    Raises:
        DataError: for a file that cannot be read.
    """
    if isinstance(connection, Cluster):
        return connection.read_table(name, sources, wanted)
    if sources[0].suffix in files.PARQUET:
        table = parquet.read(connection, name, sources, wanted)
    elif sources[0].suffix in files.JSON_LINES:
        table = json_lines.read(connection, name, sources, wanted)
    elif sources[0].suffix in files.TFRECORDS:
        table = examples.read(connection, name, sources, wanted)
    else:
        table = delimited.read(connection, name, sources, wanted)
    counts = dict(connection.execute(f"SELECT source, count(*) FROM {name} GROUP BY source").fetchall())
    sizes = [counts.get(position, 0) for position in range(len(sources))]
    table.starts = [0, *itertools.accumulate(sizes)]
    return table
