"""Reading rows of prepared data, against files written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_tf.artifacts import PreparedPaths
from twotower_tf.prepare.prepared import Prepared, take_rows

Row = dict[str, Any]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Rows 0 to 6 in two files, at most two in a row group; "a.b" is a column of its own."""
    paths = [tmp_path / name for name in ("part-0.parquet", "part-1.parquet")]
    for path, numbers in zip(paths, (range(5), range(5, 7)), strict=True):
        pq.write_table(pa.table({"a": [10 * n for n in numbers], "a.b": [str(n) for n in numbers]}), path, 2)
    return paths


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5, 6], [6, 0, 3], [4, 4, 1, 4], [2], []])
def test_rows_are_taken_in_any_order_and_more_than_once(parts: list[Path], rows: list[int]) -> None:
    table = take_rows(parts, ["a.b", "a"], np.array(rows, np.int64))
    assert table.to_pylist() == [{"a.b": str(row), "a": 10 * row} for row in rows]
    assert take_rows(parts, ["a"], np.array(rows, np.int64)).column_names == ["a"]


def test_only_what_may_have_wanted_rows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": range(100)}), tmp_path / "part-0.parquet", 40)
    read, original = [], pq.ParquetFile.iter_batches

    def note(file: pq.ParquetFile, size: int, groups: list[int], *more: Any, **options: Any) -> Iterator[Any]:
        for batch in original(file, 10, groups, *more, **options):
            read.append((*groups, batch["a"][0].as_py()))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    assert take_rows([tmp_path / "part-0.parquet"], ["a"], np.array([95, 3, 12]))["a"].to_pylist() == [95, 3, 12]
    assert read == [(0, 0), (0, 10), (2, 80), (2, 90)]  # no group from 40, nothing from 20 on of the first


def test_rows_have_the_values_of_their_users_and_of_their_items_versions(tmp_path: Path) -> None:
    paths = PreparedPaths(tmp_path)
    keys = [(0, 2, 3), (1, 0, 0), (0, 0, 1), (1, 2, 3)]  # of two parts: user, item, version
    tables = {
        paths.users: {"user.name": ["ann", "bob"]},
        paths.item_versions / "part-0.parquet": {"item.price": [1.5, 2.5]},
        paths.item_versions / "part-1.parquet": {"item.price": [None, 4.5]},
    }
    for part in (0, 1):
        rows = keys[2 * part : 2 * part + 2]
        columns = dict(zip(("user_row", "item_row", "item_version"), map(list, zip(*rows, strict=True)), strict=True))
        tables[paths.examples("train") / f"part-{part}.parquet"] = columns | {"user.age": [10 * part, 10 * part + 1]}
    for path, columns in tables.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    prepared = Prepared(paths, {"user_columns_by_row": ["name"], "item_columns_as_of": ["price"]}, {})

    names, prices, ages = ["ann", "bob"], [1.5, 2.5, None, 4.5], [0, 1, 10, 11]
    expected: list[Row] = [
        {
            "user_row": user,
            "item_row": item,
            "user.age": age,
            "user.name": names[user],
            "item.price": prices[version],
        }
        for (user, item, version), age in zip(keys, ages, strict=True)
    ]
    assert prepared.read_rows("train").to_pylist() == expected
    table = prepared.read_rows("train", ["item.price", "user.age"], np.array([3, 1]))
    assert table.to_pylist() == [{"item.price": 4.5, "user.age": 11}, {"item.price": 1.5, "user.age": 1}]
