"""Tables on DuckDB from files of every format."""

from twotower_tf.data.readers.formats import read

__all__ = ["read"]
