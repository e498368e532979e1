"""Limits of one request, in a module that imports nothing."""

MAX_K = 1_000  # answers to one query, unless the caller allows more
FILTER_SECONDS = 2.0  # for the evaluation of one filter
JOB_FILTER_SECONDS = 60.0  # of a job that has one filter, of the person who runs it
