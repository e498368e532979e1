"""Tables on DuckDB from files of every format."""

from twotower_tf.tables.readers.table_reader import read_table

__all__ = ["read_table"]
