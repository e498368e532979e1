"""Embedding tables, towers, the two-tower model and its losses."""
