"""The ScaNN backend: building, tuning, searching, updating."""
