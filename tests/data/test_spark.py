"""The Spark engine gives what DuckDB gives: every row, number, order and statistic, and the same errors."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
from twotower_tf.data import publishers, synthetic
from twotower_tf.data.prepare import prepare
from twotower_tf.data.prepared import Prepared
from twotower_tf.data.spark.session import SparkOptions

PUBLISHED = Path(os.environ.get("TWOTOWER_TEST_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
SPLITS = {
    "time": TimeSplit(valid_fraction=0.1, test_fraction=0.1),
    "leave_last_out": LeaveLastOut(),
    "random": RandomSplit(valid_fraction=0.1, test_fraction=0.2),
    "given": GivenSplit(column="split"),
}


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkOptions]:
    """A small Spark in this process, which the preparations share."""
    for module in ("pyspark", "sqlglot"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'twotower-tf[spark]'")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("needs Java 17: apt-get install openjdk-17-jre-headless")
    from twotower_tf.data.spark.session import start

    conf = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",  # little as there is, it is parted
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.log.level": "ERROR",
        # so little is run that compiling it takes longer
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    }
    session = start(SparkOptions("local[2]", conf))
    yield SparkOptions()
    session.stop()


def content(run_dir: Path) -> dict[str, Any]:
    """All that a preparation says, whatever its files are cut into."""
    prepared = Prepared.open(run_dir)
    manifest = {name: value for name, value in prepared.manifest.items() if name != "engine"}
    found: dict[str, Any] = {"manifest": manifest, "statistics": prepared.statistics}
    found["quarantine"] = prepared.paths.quarantine.read_text()
    found["items"] = prepared.items()
    found["users"] = pq.read_table(prepared.paths.users)
    found["positives"] = pq.read_table(prepared.paths.positives)
    for which in ("train", "seen"):
        found[f"sequence {which}"] = prepared.sequence(which).tolist()
        found[f"sequence users {which}"] = prepared.sequence_users(which).tolist()
    for split in ("train", "valid", "test"):
        parts = [pq.read_table(path) for path in prepared.parts(split)]
        found[f"examples {split}"] = pa.concat_tables(parts).combine_chunks()
        assert len(found[f"examples {split}"]) == prepared.num_rows(split)
    return found


def assert_engines_agree(config: ExperimentConfig, root: Path, spark: SparkOptions) -> dict[str, Any]:
    """Prepares with both engines and compares; returns the content."""
    ours, theirs = (
        prepare(config, root / "duckdb"),
        prepare(config, root / "spark", spark=spark, memory_limit="1GB"),
    )
    assert (ours["engine"], theirs["engine"]) == ("duckdb", "spark")
    expected, found = content(root / "duckdb"), content(root / "spark")
    assert set(expected) == set(found)
    for name, value in expected.items():
        if isinstance(value, pa.Table):
            assert found[name].schema == value.schema, name
            assert found[name].equals(value), name
        else:
            assert found[name] == value, name
    leftovers = [path for path in (root / "spark").rglob("*") if path.name.startswith((".tmp-", "work"))]
    assert not leftovers
    return expected


@pytest.fixture(scope="session")
def synthetic_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "log"
    synthetic.synthesize(root, events=3_000, users=100, items=60, days=3, seed=3)
    for path in sorted((root / "events").rglob("*.csv")):
        query = "SELECT *, CASE hash(user_id) % 5 WHEN 0 THEN 'valid' WHEN 1 THEN 'test' ELSE 'train' END AS split"
        duckdb.execute(f"COPY ({query} FROM read_csv('{path}', all_varchar = true)) TO '{path}.new' (HEADER)")
        Path(f"{path}.new").replace(path)
    return root


def cases(*here: str) -> list[Any]:
    """Every split; those not compared here are in `make quality`, because each takes Spark half a minute."""
    return [pytest.param(name, marks=() if name in here else pytest.mark.quality) for name in SPLITS]


@pytest.mark.parametrize("split", cases("time", "given"))
def test_engines_agree_on_the_synthetic_log(
    tmp_path: Path, synthetic_log: Path, spark: SparkOptions, split: str
) -> None:
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
    train = found["examples train"]
    assert [len(set(train[name].to_pylist())) > 1 for name in ("rejected", "weight", "list", "position")] == [True] * 4
    assert all(found["manifest"]["splits"][name]["positives"] for name in ("train", "valid", "test"))


@pytest.fixture(scope="session")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = PUBLISHED / "movielens-100k"
    if not source.exists():
        pytest.skip(f"needs the published files in {source}; set TWOTOWER_TEST_DATA to their directory")
    root = tmp_path_factory.mktemp("movielens") / "tables"
    publishers.convert("movielens-100k", root, source=source)
    events = root / "events.parquet"
    query = "SELECT *, CASE hash(user_id) % 5 WHEN 0 THEN 'valid' WHEN 1 THEN 'test' ELSE 'train' END AS split"
    duckdb.execute(f"COPY (SELECT * FROM ({query} FROM '{events}')) TO '{events}.new' (FORMAT parquet)")
    Path(f"{events}.new").replace(events)
    return root


@pytest.mark.parametrize("split", cases("leave_last_out", "random"))
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
