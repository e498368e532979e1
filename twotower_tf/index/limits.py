"""Limits of one request, in a module that imports nothing."""

MAX_K = 1_000  # answers to one query, unless the caller allows more
FILTER_SECONDS = 2.0  # for the evaluation of one filter
