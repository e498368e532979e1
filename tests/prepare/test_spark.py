"""The Spark engine gives what DuckDB gives: every row, number, order and statistic, and the same errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.prepare.engines import assert_engines_agree
from twotower_tf import datasets
from twotower_tf.config import (
    Bucketized,
    DataConfig,
    ExperimentConfig,
    GivenSplit,
    Hash,
    History,
    Hour,
    LeaveLastOut,
    Numeric,
    RandomSplit,
    Tags,
    TimeSplit,
)
from twotower_tf.datasets import synthetic
from twotower_tf.prepare.spark.spark_session import SparkOptions

pytestmark = pytest.mark.spark

SPLITS = {
    "time": TimeSplit(valid_fraction=0.1, test_fraction=0.1),
    "leave_last_out": LeaveLastOut(),
    "random": RandomSplit(valid_fraction=0.1, test_fraction=0.2),
    "given": GivenSplit(column="split"),
}


@pytest.fixture(scope="session")
def synthetic_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "log"
    synthetic.write_synthetic_log(root, events=3_000, users=100, items=60, days=3, seed=3)
    for path in sorted((root / "events").rglob("*.csv")):
        query = "SELECT *, CASE hash(user_id) % 5 WHEN 0 THEN 'valid' WHEN 1 THEN 'test' ELSE 'train' END AS split"
        duckdb.execute(f"COPY ({query} FROM read_csv('{path}', all_varchar = true)) TO '{path}.new' (HEADER)")
        Path(f"{path}.new").replace(path)
    return root


def cases(*here: str) -> list[Any]:
    """Every split; those not compared here are in `make quality`, because each takes Spark long."""
    return [pytest.param(name, marks=() if name in here else pytest.mark.quality) for name in SPLITS]


@pytest.mark.parametrize("split", cases("given"))
def test_engines_agree_on_the_synthetic_log(
    tmp_path: Path, synthetic_log: Path, spark: SparkOptions, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if split != "given":  # little as there is, the executors do it
        monkeypatch.setattr("twotower_tf.prepare.spark.executors._DRIVER_ROWS", -1)
    config = ExperimentConfig(
        name="synthetic",
        data=DataConfig(
            root=str(synthetic_log),
            events="events",
            items="items.csv",
            users="users.csv",
            timestamp="timestamp",
            label="click",
            item_name="title",
            exclude="device_type = 'tablet' AND regexp_matches(user_id, '7$')",
            rejected="device_type = 'phone' AND placement <> 'top'",
            weight="CASE placement WHEN 'top' THEN 0.3 WHEN 'feed' THEN 1 ELSE click - 0.5 END",
            list_id="device_type",
            position="timestamp",
            split=SPLITS[split],
        ),
        item_features=(
            Hash("item_id", buckets=100),
            Hash("category", buckets=100),
            Numeric("price", transform="log1p"),
            Hash("placement", buckets=10),
        ),
        user_features=(
            Hash("user_id", buckets=100),
            Hash("country", buckets=100),
            Bucketized("age", buckets=7),
            Tags("interests", buckets=100, separator="|"),
            Hash("device_type", buckets=10),
            Hour("timestamp"),
            History(of="item_id", length=20),
        ),
    )
    found = assert_engines_agree(config, tmp_path, spark)
    rows = found["manifest"]["rows"]
    assert rows["read"] == 3_000 == rows["used"] + sum(rows["excluded"].values()) + rows["quarantined"]
    assert rows["excluded"] and rows["quarantined"]
    assert len(found["item versions"]) > len(found["items"])
    train = found["examples train"]
    assert [len(set(train[name].to_pylist())) > 1 for name in ("rejected", "weight", "list", "position")] == [True] * 4
    assert all(found["manifest"]["splits"][name]["positives"] for name in ("train", "valid", "test"))


@pytest.fixture(scope="session")
def movielens(tmp_path_factory: pytest.TempPathFactory, published: Callable[[str], Path]) -> Path:
    root = tmp_path_factory.mktemp("movielens") / "tables"
    datasets.convert_dataset("movielens-100k", root, source=published("movielens-100k"))
    events = root / "events.parquet"
    query = "SELECT *, CASE hash(user_id) % 5 WHEN 0 THEN 'valid' WHEN 1 THEN 'test' ELSE 'train' END AS split"
    duckdb.execute(f"COPY (SELECT * FROM ({query} FROM '{events}')) TO '{events}.new' (FORMAT parquet)")
    Path(f"{events}.new").replace(events)
    return root


@pytest.mark.parametrize("split", cases("leave_last_out"))
def test_engines_agree_on_movielens(tmp_path: Path, movielens: Path, spark: SparkOptions, split: str) -> None:
    config = ExperimentConfig(
        name="movielens",
        data=DataConfig(
            root=str(movielens),
            events="events.parquet",
            items="items.parquet",
            users="users.parquet",
            item_id="movie_id",
            timestamp="timestamp",
            item_name="title",
            positive="rating >= 4",
            rejected="rating <= 2",
            weight="rating / 3",
            list_id="user_id",
            position="rating",
            split=SPLITS[split],
        ),
        item_features=(
            Hash("movie_id", buckets=1000),
            Tags("genres", buckets=100, separator="|"),
            Bucketized("year", buckets=10),
        ),
        user_features=(
            Hash("user_id", buckets=1000),
            Hash("gender", buckets=10),
            Numeric("age"),
            History(of="movie_id", length=50),
        ),
    )
    found = assert_engines_agree(config, tmp_path, spark)
    assert found["manifest"]["rows"]["used"] == 100_000
    assert len(found["items"]) == 1682
