"""The two engines side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twotower_tf.config import ExperimentConfig
from twotower_tf.prepare.preparation import prepare_log
from twotower_tf.prepare.prepared import Prepared
from twotower_tf.prepare.spark.spark_session import SparkOptions


def content(run_dir: Path) -> dict[str, Any]:
    """All that a preparation says, whatever its files are cut into."""
    prepared = Prepared.open(run_dir)
    manifest = {name: value for name, value in prepared.manifest.items() if name != "engine"}
    found: dict[str, Any] = {"manifest": manifest, "statistics": prepared.statistics}
    found["quarantine"] = prepared.paths.quarantine.read_text()
    found["items"] = prepared.items()
    found["users"] = pq.read_table(prepared.paths.users)
    found["positives"] = pq.read_table(prepared.paths.positives)
    if prepared.version_parts():
        found["item versions"] = pa.concat_tables([pq.read_table(path) for path in prepared.version_parts()])
    for which in ("train", "seen"):
        found[f"sequence {which}"] = prepared.sequence(which).tolist()
        found[f"sequence users {which}"] = prepared.sequence_users(which).tolist()
    for split in ("train", "valid", "test"):
        parts = [pq.read_table(path) for path in prepared.parts(split)]
        found[f"examples {split}"] = pa.concat_tables(parts).combine_chunks()
        assert len(found[f"examples {split}"]) == prepared.num_rows(split)
    return found


def assert_engines_agree(
    config: ExperimentConfig, root: Path, spark: SparkOptions, since: Path | None = None
) -> dict[str, Any]:
    """Prepares with both engines and compares; returns the content."""
    first, second = (
        prepare_log(config, root / "duckdb", since=since),
        prepare_log(config, root / "spark", since=since, spark=spark, memory_limit="1GB"),
    )
    assert (first["engine"], second["engine"]) == ("duckdb", "spark")
    return assert_runs_agree(root / "duckdb", root / "spark")


def assert_runs_agree(duckdb: Path, spark: Path) -> dict[str, Any]:
    """Compares what the engines prepared; returns the content."""
    expected, found = content(duckdb), content(spark)
    assert set(expected) == set(found)
    for name, value in expected.items():
        if isinstance(value, pa.Table):
            assert found[name].schema == value.schema, name
            assert found[name].equals(value), name
        else:
            assert found[name] == value, name
    leftovers = [path for path in spark.rglob("*") if path.name.startswith((".tmp-", "work"))]
    assert not leftovers
    return expected
