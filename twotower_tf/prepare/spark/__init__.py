"""Runs the SQL steps of `prepare` on Spark."""
