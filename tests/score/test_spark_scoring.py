"""Spark's executors compute what local workers compute."""

import json
import pickle
import sys
from dataclasses import asdict
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.score.people import delimited, people
from tests.score.test_scorer import scored
from twotower_tf.cli.main import main
from twotower_tf.errors import DataError
from twotower_tf.score import spark_scoring
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_plan import Planner

pytestmark = pytest.mark.spark


@pytest.fixture
def users(tmp_path):
    delimited(tmp_path / "users.csv", people(500))
    lines = (tmp_path / "users.csv").read_text().splitlines()
    lines[100] += ",more"
    (tmp_path / "users.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "users.csv"


@pytest.mark.usefixtures("one_tower")
@pytest.mark.parametrize("format", ["parquet", "tsv"])
def test_a_task_gives_the_rows_that_a_worker_writes(tmp_path, export_dir, users, monkeypatch, format):
    """The function that Spark is given, called as an executor calls it."""
    files = ModuleType("pyspark")
    files.SparkFiles = type("SparkFiles", (), {"get": staticmethod(lambda name: str(export_dir))})
    monkeypatch.setitem(sys.modules, "pyspark", files)
    spark_scoring._loaded.clear()
    options = Options(export_dir=export_dir, output=tmp_path / "out", users=str(users), k=4, format=format)
    local, _, entries = scored(options)
    planner = Planner(options)
    job, units = planner.make_plan()
    work = pickle.loads(pickle.dumps(spark_scoring._Work(job, 4096)))
    batch = pa.record_batch({"unit": [json.dumps(asdict(unit)) for unit in units]})
    found = pa.Table.from_batches(list(work(iter([batch]))))
    assert found.combine_chunks().equals(local.combine_chunks())
    assert [entry["line"] for entry in entries] == [101] and local.num_rows == 499
    (note,) = planner.journal.unit_results(1)
    assert note["quarantined"] == entries and note["users"] == 499


def test_errors_of_ours_are_told_without_frames():
    seen = spark_scoring._translate_error(
        RuntimeError("Job aborted...\ntwotower_tf.errors.DataError: u.csv: cannot be read: odd\n  at x.y")
    )
    assert isinstance(seen, DataError) and str(seen) == "u.csv: cannot be read: odd"
    other = ValueError("x")
    assert spark_scoring._translate_error(other) is other


@pytest.mark.quality
@pytest.mark.parametrize("format", ["parquet", "tsv"])
def test_local_and_spark_agree(tmp_path, export_dir, users, format):
    outputs = []
    for engine, flags in (("local", []), ("spark", ["--spark_master=local[2]"])):
        output = tmp_path / engine
        flags += [f"--engine={engine}", f"--output={output}", f"--format={format}", "--at=1736500000", "--k=5"]
        assert main(["score", f"--export_dir={export_dir}", f"--users={users}", *flags]) == 0
        read = pq.read_table if format == "parquet" else lambda path: (next(path.glob("part-*"))).read_text()
        outputs.append((read(output), (output / "_quarantine.jsonl").read_text()))
        assert json.loads((output / "_summary.json").read_text())["users"] == 499
    (local, set_aside), (of_spark, also) = outputs
    assert set_aside == also
    assert local == of_spark if format == "tsv" else of_spark.cast(local.schema).equals(local)
