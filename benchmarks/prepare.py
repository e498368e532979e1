"""Events per second and peak memory of `twotower prepare` on an Avazu-shaped log, compared with scripts.

    python benchmarks/prepare.py --events=10000000
    python benchmarks/prepare.py --events=100000000 --memory_limit=4GB --keep=/scratch
    python benchmarks/prepare.py --events=0 --distinct=100000000 --memory_limit=4GB
    python benchmarks/prepare.py --events=0 --malformed=.01 --malformed_events=4000000
    python benchmarks/prepare.py --events=0 --small=1000

Each run is the whole command in its own process: start of Python, CSV, encoding and audit included. The scripts in
`peers/` read the same CSV, join users and items, make each row's history of 20 and write Parquet; first, their
histories on a small log are compared with this package's. pandas gets the log of `--peer_events` only.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import avazu_log
import malformed_log
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from comparison import print_comparison

from twotower_tf import config as configuration
from twotower_tf.artifacts import SPLITS
from twotower_tf.config import DataConfig, ExperimentConfig, Hash, TimeSplit
from twotower_tf.prepare.prepared import Prepared

_TURNS = 3

PEERS = {  # scripts in peers/, and the most events that each gets
    "polars_lists": 100_000_000,
    "polars_offsets": 100_000_000,
    "duckdb_by_hand": 100_000_000,
    "pandas_script": 1_000_000,
}
_CHECKED = 20_000  # events of the log on which all histories are compared
_LENGTH = 20  # of a history


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


def peer(root: Path, events: int, script: str) -> Measured:
    """Prepares the same log with one of the scripts; its result stays until the next."""
    output = root / script
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    path = Path(__file__).parent / "peers" / f"{script}.py"
    return measured([sys.executable, str(path), str(root / f"log-{events}" / "events.csv"), str(output)])


def check_peers(root: Path, memory_limit: str) -> None:
    """Checks that every script gives each event of a small log the history that this package gives it."""
    log, run = root / f"log-{_CHECKED}", root / "run-checked"
    avazu(root, _CHECKED, memory_limit)
    twotower(avazu_log.config(log), run, memory_limit)
    expected = list(read_histories(Prepared.open(run)))
    for script in PEERS:
        peer(root, _CHECKED, script)
        found = read_peer_histories(root / script)
        if found != expected:
            wrong = sum(one != other for one, other in zip(found, expected, strict=True))
            raise SystemExit(f"{script}: {wrong} of {len(expected)} histories differ")
        shutil.rmtree(root / script)
    shutil.rmtree(run)


def read_histories(prepared: Prepared) -> Iterator[list[int]]:
    """Yields the item rows of each event's history, in the order of time."""
    for split in SPLITS:
        sequence = prepared.sequence("seen" if split == "test" else "train")
        slices = prepared.columns(split, ["history_start", "history_end"])
        for start, end in zip(slices["history_start"], slices["history_end"], strict=True):
            yield sequence[max(start, end - _LENGTH) : end].tolist()


def read_peer_histories(directory: Path) -> list[list[int]]:
    """Reads the same of a script's result: lists, texts, or offsets into a sequence."""
    rows = pq.read_table(directory / "rows.parquet")
    if "history" in rows.column_names:
        values = rows["history"].to_pylist()
        return [[int(item) for item in (value.split() if isinstance(value, str) else value or [])] for value in values]
    sequence = pq.read_table(directory / "sequence.parquet")["item_row"].to_pylist()
    slices = zip(rows["history_start"].to_pylist(), rows["history_end"].to_pylist(), strict=True)
    return [sequence[max(start, end - _LENGTH) : end] if end else [] for start, end in slices]


def compare_peers(root: Path, events: int, memory_limit: str, turns: int) -> None:
    """Prepares a log with this package and every script, by turns, and prints the medians."""
    scripts = [script for script, most in PEERS.items() if events <= most]
    runs: dict[str, list[Measured]] = {}
    for _ in range(turns):
        runs.setdefault("", []).append(avazu(root, events, memory_limit))
        for script in scripts:
            runs.setdefault(script, []).append(peer(root, events, script))
            shutil.rmtree(root / script)
    medians = {name: sorted(each, key=lambda run: run.seconds)[turns // 2] for name, each in runs.items()}
    mine = medians.pop("")
    for script, other in medians.items():
        size = {"events": events, "peer_is": script, "memory_limit": memory_limit, "turns": turns}
        seconds = {"seconds": round(mine.seconds, 1), "peer_seconds": round(other.seconds, 1)}
        seconds |= {"cpu_seconds": round(mine.cpu_seconds, 1), "peer_cpu_seconds": round(other.cpu_seconds, 1)}
        report("prepare", events / mine.seconds, events / other.seconds, "events/s", **size, **seconds)
        report("prepare_memory", mine.peak / 1e9, other.peak / 1e9, "GB peak resident", **size)


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
    parser.add_argument("--peer_events", type=int, default=1_000_000, help="of the smaller log, which pandas gets too")
    parser.add_argument("--turns", type=int, default=1, help="runs of each, of which the medians are reported")
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
            check_peers(root, flags.memory_limit)
            for events in dict.fromkeys((flags.peer_events, flags.events)):
                compare_peers(root, events, flags.memory_limit, flags.turns)
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
