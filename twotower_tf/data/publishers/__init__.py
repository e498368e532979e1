"""Published data sets as tables: what `twotower dataset NAME` writes."""

from twotower_tf.data.publishers.convert import NAMES, convert

__all__ = ["NAMES", "convert"]
