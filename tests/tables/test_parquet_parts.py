"""Rows are regrouped into tables of one size, and written as Parquet with dictionaries where these pay."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.tables import parquet_parts
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


def test_texts_that_mostly_differ_and_numbers_have_no_dictionary(tmp_path: Path) -> None:
    table = pa.table(
        {
            "colour": pa.array(["red", None, "blue", "red"] * 500),
            "address": pa.array([f"{number:08x}" for number in range(2000)]),
            "place": pa.array([-(1 << 62), None, *range(1998)], pa.int64()),
            "row": pa.array(range(2000), pa.int32()),
            "price": pa.array([0.5] * 2000),
        }
    )
    parquet_parts.write_part(table, tmp_path, 3)
    path = tmp_path / "part-00003.parquet"
    assert pq.read_table(path).equals(table)
    with pq.ParquetFile(path) as file:
        columns = [file.metadata.row_group(0).column(place) for place in range(5)]
    coded = [each.path_in_schema for each in columns if "RLE_DICTIONARY" in each.encodings]
    assert coded == ["colour"]
