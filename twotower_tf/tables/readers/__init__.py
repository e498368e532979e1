"""Reads files of every format into DuckDB tables."""

from twotower_tf.tables.readers.table_reader import read_table

__all__ = ["read_table"]
