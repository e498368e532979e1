"""Reads tables: files and partitions, formats, time forms, quarantine, and the DuckDB engine."""
