"""The engine of preparations: tables in memory or in a file, and sizes of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prepare.test_preparation import experiment
from twotower_tf.errors import ConfigError
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.tables import duckdb_engine, input_files


def test_tables_that_outgrow_memory_are_compressed_in_a_file(tmp_path: Path) -> None:
    rows = "SELECT 'a value of some length ' || (range % 100) AS text FROM range(1000000)"
    used = {}
    for name, expected in (("memory", 0), ("file", 1 << 40)):
        with duckdb_engine.open_engine(tmp_path / name, "200MB", 1, expected) as connection:
            connection.execute(f"CREATE TABLE texts AS {rows}; CHECKPOINT")
            used[name] = [path.stat().st_size for path in (tmp_path / name).glob("*.duckdb")]
        assert not (tmp_path / name).exists()
    assert used["memory"] == []
    assert 0 < used["file"][0] < 5_000_000  # the texts are 24 MB


def test_bytes_of_text(tmp_path: Path) -> None:
    for name, size in (("a.csv", 10), ("b.csv.gz", 100), ("c.parquet", 1000)):
        (tmp_path / name).write_bytes(b"x" * size)
        (source,) = input_files.find_files(tmp_path, name, "data.events")
        assert (
            input_files.estimate_text_bytes([source, source]) == {"a.csv": 20, "b.csv.gz": 800, "c.parquet": 8000}[name]
        )


def test_memory_limit_must_be_a_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--memory_limit: invalid size 'plenty' .expected e.g. 4GB or 500MB.$"):
        prepare_log(experiment(tmp_path), tmp_path / "run", memory_limit="plenty")


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("500MB", 5e8), ("2 GiB", 2**31), ("1.5gb", 1.5e9), ("64KB", 64e3), ("9TB", 9e12)]
)
def test_sizes(text: str, size: float) -> None:
    assert duckdb_engine.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4", "0GB", "-1GB", "4XB", "GB", "80%"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="--memory_limit: invalid size .* .expected e.g. 4GB or 500MB.$"):
        duckdb_engine.parse_size(text)
