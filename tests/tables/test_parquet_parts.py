"""Rows are regrouped into tables of one size, whatever the sizes in which they come."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from twotower_tf.tables.parquet_parts import regroup_batches


@pytest.mark.parametrize("seed", range(8))
def test_batches_of_any_sizes(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([0, 1, 2, 5, 17, 40]) for _ in range(chance.randrange(9))]
    rows, total = chance.randrange(1, 12), sum(sizes)
    numbers = iter(range(total))
    batches = [pa.record_batch({"n": pa.array([next(numbers) for _ in range(size)], pa.int64())}) for size in sizes]
    found = [table.column("n").to_pylist() for table in regroup_batches(batches, rows)]
    assert found == [list(range(start, min(total, start + rows))) for start in range(0, total, rows)]
