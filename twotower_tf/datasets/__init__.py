"""Converts published data sets to tables: `twotower dataset NAME`."""

from twotower_tf.datasets.publications import NAMES, convert_dataset

__all__ = ["NAMES", "convert_dataset"]
