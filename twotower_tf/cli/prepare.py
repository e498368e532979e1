"""Reads the log and its tables, and writes RUN_DIR/prepared: training shards, catalogue and statistics.

Malformed rows are written to prepared/quarantine.jsonl with file, line and reason. The resolved
configuration is written to RUN_DIR/config.json first; every later command reads that file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl.flags import FlagValues

from twotower_tf.cli import options

REQUIRED = ("config", "run_dir")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.config(values)
    options.run_dir(values)
    options.preparation(values)
    options.overwrite(values)


def run(values: FlagValues) -> None:
    """Prepares the run, and prints the counts of rows, items and users."""
    from twotower_tf import config as configuration
    from twotower_tf import pipeline, run_lock
    from twotower_tf.cli import progress_bar

    config, run_dir = configuration.load(values.config, values.set), Path(values.run_dir)
    spark = options.spark(values)
    with run_lock.working(run_dir, create=True), progress_bar.shown() as show:
        pipeline.adopt(run_dir, config, overwrite=values.overwrite)
        runner = pipeline.Runner(config, run_dir, show, print)
        manifest = runner.prepare(
            memory_limit=values.memory_limit, threads=values.threads, spark=spark, since=values.since
        )
    print(told(manifest))


def told(manifest: dict[str, Any]) -> str:
    """Formats the counts of rows, items and users of a prepared run."""
    rows = manifest["rows"]
    rules = {"exclude": "excluded by data.exclude"}
    dropped = [f"{count:,} {rules.get(reason, reason)}" for reason, count in rows["excluded"].items() if count]
    if rows["quarantined"]:
        dropped.append(f"{rows['quarantined']:,} quarantined (prepared/quarantine.jsonl)")
    older = [
        f"\n{name}: {counts['read']:,} read, {counts['duplicates']:,} older rows with the same id dropped"
        for name, counts in manifest["tables"].items()
        if counts["duplicates"]
    ]
    splits = [f"{name} {split['rows']:,}" for name, split in manifest["splits"].items()]
    return (
        f"rows: {rows['read']:,} read, {rows['used']:,} used"
        + (f", not used: {', '.join(dropped)}" if dropped else "")
        + "".join(older)
        + f"\n{', '.join(splits)}; {manifest['items']:,} items, {manifest['users']:,} users"
    )
