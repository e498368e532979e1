"""Published data sets as tables: what `twotower dataset NAME` writes."""

from twotower_tf.datasets.publications import NAMES, convert_dataset

__all__ = ["NAMES", "convert_dataset"]
