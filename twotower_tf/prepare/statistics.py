"""Computes statistics of numbers from training rows only: quantile boundaries, means and deviations.

A column is reduced to its distinct values with their counts, in order, and read as a stream: memory does not grow with
the log, and the sums do not depend on threads. Boundaries are values of the column (the smallest value whose cumulated
share reaches i/buckets), as exact float32, so that a value has the same bucket in training and in serving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_tf.config import ExperimentConfig, feature_columns, feature_name
from twotower_tf.prepare.schema import SIDES, Side
from twotower_tf.sql import Connection
from twotower_tf.tables import parquet_parts
from twotower_tf.tables.arrow_numbers import view_as_numpy

SCHEMA_VERSION = 1

Array = npt.NDArray[np.float64]
Counts = Callable[[], Iterator[tuple[Array, Array]]]


def compute_statistics(
    connection: Connection, config: ExperimentConfig, relation: Callable[[Side, str], tuple[str, str]]
) -> dict[str, Any]:
    """Computes the content of `statistics.json`.

    `relation` returns, for a side and a source column, SQL of the training rows and of the column's value there.
    """
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "user": {}, "item": {}}
    for side in SIDES:
        for feature in config.user_features if side == "user" else config.item_features:
            wanted = feature.statistics
            if not wanted:
                continue
            rows, value = relation(side, feature_columns(feature)[0])
            kind = "FLOAT" if wanted == "boundaries" else "DOUBLE"
            query = (
                f"SELECT CAST(value AS DOUBLE), CAST(count(*) AS DOUBLE) FROM (SELECT CAST({value} AS {kind}) AS value "
                f"FROM {rows}) WHERE abs(value) < CAST('Infinity' AS DOUBLE) GROUP BY value ORDER BY value"
            )

            def counts(query: str = query) -> Iterator[tuple[Array, Array]]:
                for table in parquet_parts.stream_tables(connection, query):
                    yield view_as_numpy(table.column(0)), view_as_numpy(table.column(1))

            found = (
                {"boundaries": compute_boundaries(counts, feature.table_rows())}
                if wanted == "boundaries"
                else compute_moments(counts, log=wanted == "log_moments")
            )
            document[side][feature_name(feature)] = found
    return document


def signed_log1p(values: Array) -> Array:
    """Computes sign(x)·log1p(|x|), a logarithm that keeps 0 and accepts negative numbers."""
    logarithms: Array = np.sign(values) * np.log1p(np.abs(values))
    return logarithms


def compute_moments(counts: Counts, *, log: bool) -> dict[str, Any]:
    """Computes count, mean and population deviation; the deviation is 1 where it would be 0 or no value is present.

    Chunks are merged by the pairwise update of Chan, Golub and LeVeque (1979).
    """
    total, mean, squares = 0.0, 0.0, 0.0
    for values, weights in counts():
        numbers = signed_log1p(values) if log else values
        chunk = float(weights.sum())
        chunk_mean = float((numbers * weights).sum() / chunk)
        chunk_squares = float((weights * (numbers - chunk_mean) ** 2).sum())
        delta = chunk_mean - mean
        squares += chunk_squares + delta * delta * total * chunk / (total + chunk)
        mean += delta * chunk / (total + chunk)
        total += chunk
    deviation = float(np.sqrt(squares / total)) if total else 0.0
    return {"count": int(total), "mean": mean, "std": deviation if deviation > 0 else 1.0}


def compute_boundaries(counts: Counts, buckets: int) -> list[float]:
    """Computes strictly increasing quantiles i/buckets, i = 1 .. buckets - 1; [0.0] for a column without values.

    TensorFlow's column does not accept an empty list of boundaries.
    """
    total = int(sum(weights.sum() for _, weights in counts()))
    if not total:
        return [0.0]
    ranks = -(-np.arange(1, buckets, dtype=np.int64) * total // buckets)  # ceil(i * total / buckets), from 1
    found: list[float] = []
    before = 0
    for values, weights in counts():
        upto = before + np.cumsum(weights.astype(np.int64))
        here = ranks[(ranks > before) & (ranks <= upto[-1])]
        found += values[np.searchsorted(upto, here)].tolist()
        before = int(upto[-1])
    return sorted(set(found))
