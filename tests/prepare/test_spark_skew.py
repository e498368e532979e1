"""A log of which one user and one item hold a third: the same result, and no task with much more than its share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from tests.prepare.engines import assert_runs_agree
from twotower_tf import config as configuration
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, History, LeaveLastOut, Numeric, TimeSplit
from twotower_tf.prepare.preparation import prepare_log

pytestmark = pytest.mark.spark

EVENTS, FILES, USERS, ITEMS, HOURS = 90_000, 6, 4_000, 500, 240
HOT = 0.3
MOST = 0.2  # of a stage's rows in one task: less than the hot key has

# a cluster's sizes by a thousand smaller: what counts as skewed there does so here
SMALL = {
    "spark.sql.shuffle.partitions": "32",  # in fewer no part is five times the median, which makes it skewed
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": "32KB",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "32KB",
    "spark.sql.adaptive.coalescePartitions.enabled": "false",
    "spark.sql.files.openCostInBytes": "0",
    "spark.sql.files.maxPartitionBytes": "32KB",
    "spark.ui.enabled": "false",
    # so little is run that compiling it takes longer
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}


def write_log(root: Path) -> None:
    """Hot ids at all hours; a table of users, and one of items whose rows hold from a time on."""
    rng = np.random.default_rng(5)

    def ids(mark: str, most: int) -> pa.Array:
        numbers = np.where(rng.random(EVENTS) < HOT, 0, rng.integers(1, most, EVENTS))
        return pa.array([f"{mark}{number}" for number in numbers])

    log = pa.table(
        {
            "user": ids("u", USERS),
            "item": ids("i", ITEMS),
            "time": np.arange(EVENTS) * HOURS // EVENTS * 3600,
            "label": (rng.random(EVENTS) < 0.5).astype(int),
            "site": pa.array([f"s{number}" for number in rng.integers(0, 50, EVENTS)]),
        }
    )
    (root / "events").mkdir(parents=True)
    size = EVENTS // FILES
    for number in range(FILES):
        pacsv.write_csv(log.slice(number * size, size), root / f"events/{number}.csv")
    pacsv.write_csv(
        pa.table({"user": [f"u{number}" for number in range(USERS)], "age": np.arange(USERS) % 90}), root / "users.csv"
    )
    times = np.tile(np.arange(0, HOURS, 40) * 3600, ITEMS)
    names = [f"i{number}" for number in range(ITEMS) for _ in range(0, HOURS, 40)]
    pacsv.write_csv(
        pa.table({"item": names, "since": times, "stock": rng.integers(0, 99, len(names))}), root / "items.csv"
    )


def largest_tasks(log: Path) -> dict[str, float]:
    """From Spark's log of what ran: by stage, the largest task's share of the rows read, of stages that read many."""
    rows: dict[str, list[int]] = defaultdict(list)
    for line in log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerTaskEnd" and event.get("Task Metrics"):
            metrics = event["Task Metrics"]
            rows[f"{event['Stage ID']} shuffled"].append(metrics["Shuffle Read Metrics"]["Total Records Read"])
            rows[f"{event['Stage ID']} written"].append(metrics["Output Metrics"]["Records Written"])
    return {stage: max(counts) / sum(counts) for stage, counts in rows.items() if sum(counts) >= EVENTS // 2}


def run_on_spark(config: ExperimentConfig, root: Path) -> dict[str, float]:
    """Prepares in a process of its own below `root`; shares of the largest tasks."""
    (root / "log").mkdir()
    path = root / "config.json"
    path.write_text(configuration.to_json(config), encoding="utf-8")
    events = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": (root / "log").as_uri(),
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.compress": "false",
    }
    flags = [f"--spark_conf={name}={value}" for name, value in (SMALL | events).items()]
    command = [sys.executable, "-m", "twotower_tf", "prepare", f"--config={path}", f"--run_dir={root / 'spark'}"]
    command += ["--engine=spark", "--spark_master=local[2]", "--memory_limit=1GB", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (log,) = (root / "log").iterdir()
    return largest_tasks(log)


@pytest.mark.quality
@pytest.mark.parametrize("split", [TimeSplit(0.1, 0.1), LeaveLastOut()], ids=lambda split: type(split).__name__)
@pytest.mark.usefixtures("spark_installed")
def test_hot_keys_burden_no_task(tmp_path: Path, split: TimeSplit | LeaveLastOut) -> None:
    write_log(tmp_path / "data")
    config = ExperimentConfig(
        name="skewed",
        data=DataConfig(
            root=str(tmp_path / "data"),
            events="events",
            users="users.csv",
            items="items.csv",
            user_id="user",
            item_id="item",
            timestamp="time",
            label="label",
            items_time="since",
            split=split,
        ),
        item_features=(Hash("item", buckets=1_000), Numeric("stock")),
        user_features=(Hash("user", buckets=1_000), Hash("site", buckets=100), Numeric("age"), History(of="item")),
    )
    prepare_log(config, tmp_path / "duckdb")
    shares = run_on_spark(config, tmp_path)
    assert_runs_agree(tmp_path / "duckdb", tmp_path / "spark")
    assert len(shares) > 10
    assert {stage: share for stage, share in shares.items() if share > MOST} == {}
