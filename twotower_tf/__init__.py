"""Two-tower retrieval for TensorFlow: raw event log to recommendations."""

__version__ = "0.1.0"
