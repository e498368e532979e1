"""Tables on DuckDB from files of every format."""

from twotower_tf.tables.readers.read_table import read

__all__ = ["read"]
