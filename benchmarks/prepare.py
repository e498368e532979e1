"""Events per second and peak memory of `twotower prepare` on an Avazu-shaped log, compared with pandas.

    python benchmarks/prepare.py --events=10000000
    python benchmarks/prepare.py --events=100000000 --memory_limit=4GB --keep=/scratch
    python benchmarks/prepare.py --events=0 --distinct=100000000 --memory_limit=4GB
    python benchmarks/prepare.py --events=0 --malformed=.01 --malformed_events=4000000
    python benchmarks/prepare.py --events=0 --small=1000

Each run is the whole command in its own process: start of Python, CSV, encoding and audit included. The pandas
process reads the same CSV of `--peer_events`, merges the items, makes each row's history of 20 and writes Parquet.
`--distinct` prepares a log with a column whose values are all different. `--malformed` prepares a log with and without
so large a share of damaged rows, by turns; the report has the medians. `--small` prepares a log of so few events that
its time is that of starting.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import avazu_log
import malformed_log
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from comparison import print_comparison

from twotower_tf import config as configuration
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, TimeSplit

_TURNS = 3

PANDAS = """
import sys
import pandas as pd
events = pd.read_csv(sys.argv[1], dtype=str)
events["click"] = events["click"].astype(int)
item = ["adid", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"]
items = events.drop_duplicates("adid", keep="last")[item]
rows = events.drop(columns=item[1:]).merge(items, on="adid").sort_values(["device_id", "hour"], kind="stable")
def histories(user):
    clicked, found, waiting, hour = [], [], [], None
    for ad, click, now in zip(user["adid"], user["click"], user["hour"]):
        if now != hour:
            clicked, waiting, hour = clicked + waiting, [], now
        found.append(" ".join(clicked[-20:]))
        if click:
            waiting.append(ad)
    return pd.Series(found, index=user.index)
rows["history"] = pd.concat([histories(user) for _, user in rows.groupby("device_id", sort=False)])
rows.sort_values("hour", kind="stable").to_parquet(sys.argv[2])
"""


@dataclass(frozen=True)
class Measured:
    """One process: wall and CPU seconds, peak resident bytes."""

    seconds: float
    cpu_seconds: float
    peak: int


def measured(command: list[str]) -> Measured:
    """Runs a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command[:4])} ...: failed with status {status}")
    return Measured(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def twotower(config: ExperimentConfig, run_dir: Path, memory_limit: str) -> Measured:
    """Runs `twotower prepare`."""
    path = run_dir.parent / f"{run_dir.name}.json"
    path.write_text(configuration.to_json(config), encoding="utf-8")
    return measured(
        [sys.executable, "-m", "twotower_tf", "prepare", f"--config={path}", f"--run_dir={run_dir}",
         f"--memory_limit={memory_limit}"]
    )  # fmt: skip


def avazu(root: Path, events: int, memory_limit: str) -> Measured:
    """Prepares a log of so many events; keeps the log, deletes the result."""
    log = root / f"log-{events}"
    if not (log / "events.csv").exists():
        log.mkdir(parents=True, exist_ok=True)
        avazu_log.write(log / "unfinished", events)
        (log / "unfinished").rename(log / "events.csv")
    result = twotower(avazu_log.config(log), root / f"run-{events}", memory_limit)
    shutil.rmtree(root / f"run-{events}")
    return result


def pandas(root: Path, events: int) -> Measured:
    """Prepares the same log with pandas."""
    log, output = root / f"log-{events}" / "events.csv", root / "pandas.parquet"
    return measured([sys.executable, "-c", PANDAS, str(log), str(output)])


def distinct(root: Path, rows: int, memory_limit: str) -> Measured:
    """Prepares a log whose column `token` has another value in every row."""
    log = root / "distinct"
    log.mkdir(exist_ok=True)
    schema = pa.schema([("user", pa.string()), ("item", pa.string()), ("ts", pa.int64()), ("token", pa.string())])
    with pacsv.CSVWriter(log / "events.csv", schema, write_options=pacsv.WriteOptions(quoting_style="none")) as writer:
        for start in range(0, rows, avazu_log.CHUNK):
            index = np.arange(start, min(rows, start + avazu_log.CHUNK))
            texts = [pa.array(values).cast(pa.string()) for values in (index % 100_003, index % 10_007, index)]
            writer.write_table(
                pa.table([texts[0], texts[1], pa.array(1_700_000_000 + index // 1000), texts[2]], schema)
            )
    config = ExperimentConfig(
        name="distinct",
        data=DataConfig(
            root=str(log), events="events.csv", user_id="user", item_id="item", timestamp="ts", split=TimeSplit()
        ),
        item_features=(Hash("item", buckets=20_000),),
        user_features=(Hash("token", buckets=200_000_000),),
    )
    result = twotower(config, root / "run-distinct", memory_limit)
    shutil.rmtree(root / "run-distinct")
    shutil.rmtree(log)
    return result


def malformed(root: Path, events: int, share: float, memory_limit: str) -> tuple[Measured, Measured]:
    """Prepares a log with a share of damaged rows, and the same log without them: medians of three runs each."""
    avazu(root, events, memory_limit)  # also reads the file once, so that it is in memory
    clean, damaged = root / f"log-{events}", root / "malformed"
    damaged.mkdir(exist_ok=True)
    malformed_log.write(clean / "events.csv", damaged / "events.csv", share)
    runs: list[tuple[Measured, Measured]] = []
    for _ in range(_TURNS):
        pair = [twotower(avazu_log.config(log), root / "run-malformed", memory_limit) for log in (damaged, clean)]
        runs.append((pair[0], pair[1]))
    shutil.rmtree(root / "run-malformed")
    shutil.rmtree(damaged)
    first, second = (sorted(each, key=lambda run: run.seconds)[_TURNS // 2] for each in zip(*runs, strict=True))
    return first, second


def report(benchmark: str, mine: float, peer: float, unit: str, **setting: object) -> None:
    """Prints one comparison."""
    print_comparison(benchmark, round(mine, 3), round(peer, 3), unit, {"cores": os.cpu_count(), **setting})


def main() -> None:
    """Runs the comparisons that the flags choose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="of the large log; 0: none")
    parser.add_argument("--peer_events", type=int, default=1_000_000, help="of the log that pandas gets too")
    parser.add_argument("--distinct", type=int, default=0, help="distinct values of one column; 0: none")
    parser.add_argument("--malformed", type=float, default=0, help="share of damaged rows; 0: none")
    parser.add_argument("--malformed_events", type=int, default=4_000_000)
    parser.add_argument("--small", type=int, default=0, help="events of a small log; 0: none")
    parser.add_argument("--memory_limit", default="4GB")
    parser.add_argument("--keep", default="", help="directory that keeps the logs for another time")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(flags.keep or temporary)
        limit = {"memory_limit": flags.memory_limit}
        if flags.events:
            small = avazu(root, flags.peer_events, flags.memory_limit)
            peer = pandas(root, flags.peer_events)
            rate = flags.peer_events / peer.seconds
            size = {"events": flags.peer_events, "peer_is": "pandas", **limit}
            report(
                "prepare",
                flags.peer_events / small.seconds,
                rate,
                "events/s",
                **size,
                cpu_seconds=round(small.cpu_seconds, 1),
            )
            report("prepare_memory", small.peak / 1e9, peer.peak / 1e9, "GB peak resident", **size)
            large = avazu(root, flags.events, flags.memory_limit)
            size = {"events": flags.events, "peer_is": "pandas", "peer_events": flags.peer_events, **limit}
            seconds = {"seconds": round(large.seconds, 1), "cpu_seconds": round(large.cpu_seconds, 1)}
            report("prepare", flags.events / large.seconds, rate, "events/s", **size, **seconds)
            report("prepare_memory", large.peak / 1e9, peer.peak / 1e9, "GB peak resident", **size)
        if flags.malformed:
            damaged, clean = malformed(root, flags.malformed_events, flags.malformed, flags.memory_limit)
            setting = {
                "events": flags.malformed_events,
                "malformed": flags.malformed,
                "peer_is": "none malformed",
                **limit,
            }
            cpu = {"cpu_seconds": round(damaged.cpu_seconds, 1), "peer_cpu_seconds": round(clean.cpu_seconds, 1)}
            report("prepare_malformed", damaged.seconds, clean.seconds, "s", **setting, **cpu)
        if flags.small:
            runs = [avazu(root, flags.small, flags.memory_limit) for _ in range(_TURNS)]
            middle = sorted(runs, key=lambda run: run.seconds)[_TURNS // 2]
            setting = {"events": flags.small, "peer_is": "goal", "cpu_seconds": round(middle.cpu_seconds, 1), **limit}
            report("prepare_start", middle.seconds, 2.0, "s", **setting)
        if flags.distinct:
            found = distinct(root, flags.distinct, flags.memory_limit)
            seconds = {"seconds": round(found.seconds, 1), "cpu_seconds": round(found.cpu_seconds, 1)}
            setting = {"distinct_values": flags.distinct, "peer_is": "memory_limit", **limit, **seconds}
            gigabytes = float(flags.memory_limit.lower().removesuffix("gb"))
            report("prepare_distinct", found.peak / 1e9, gigabytes, "GB peak resident", **setting)


if __name__ == "__main__":
    main()
