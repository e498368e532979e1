"""Published data sets as tables: what `twotower dataset NAME` writes."""

from twotower_tf.datasets.convert import NAMES, convert

__all__ = ["NAMES", "convert"]
