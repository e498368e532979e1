"""Batch scoring: answers for every user of a table from a bundle's user tower and index; imports no model code."""
