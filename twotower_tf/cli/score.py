"""Recommends items to every user of a table, from a bundle: streamed, parallel, resumable, in bounded memory.

Answers are written to OUTPUT/part-*.parquet (user_id, item_ids, scores, model_version). After an interruption the same
command continues; every row of the table is answered once. Invalid rows are written to OUTPUT/_quarantine.jsonl:
    twotower score --export_dir=export/shop --users=data/shop/users --output=answers/today --k=50
"""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower_tf import artifacts, progress_bar, resources, run_lock
from twotower_tf.cli import options
from twotower_tf.cli.command import Flags

if TYPE_CHECKING:
    from twotower_tf.score.worker_pool import PoolState

REQUIRED = ("export_dir", "output")


def define(flags: Flags) -> None:
    options.add_export_dir(flags)
    flags.string("users", "", "file, glob or directory of users, with the model's columns")
    flags.string(
        "users_from_events",
        "",
        "a run directory: scores all users of its log with their latest features and history, instead of --users",
    )
    flags.string("output", None, "directory to write the answers to")
    options.add_top_k(flags)
    flags.enum("format", "parquet", ["parquet", "tsv"], "file format of the answers")
    flags.bool("vectors_only", False, "writes user vectors instead of answers")
    options.add_item_filters(flags)
    options.add_names(flags)
    flags.string("exclude", "", "file, glob or directory of (user, item) pairs to exclude, e.g. an event log")
    flags.bool("exclude_seen", False, "with --users_from_events: exclude each user's past positives")
    flags.list("absent", [], "feature columns that may be missing from the users, e.g. history")
    flags.integer("at", None, "request time in epoch seconds, if users have no time column (default: now)")
    options.add_version(flags)
    flags.bool("resume", True, "continue an interrupted scoring; --resume=false starts over")
    flags.integer("workers", 0, "processes; 0: as cores and memory allow", lower_bound=0)
    flags.integer("threads", 0, "threads per process; 0: cores / workers", lower_bound=0)
    flags.string("memory_limit", "", "memory of all workers, e.g. 8GB (default: half of the machine's memory)")
    flags.enum("engine", "local", ["local", "spark"], "engine that runs the workers")
    options.add_spark(flags)


def run(flags: Flags) -> None:
    """Scores every user."""
    options.check_k(flags)
    from twotower_tf.score.score_options import Options

    given = {field.name: getattr(flags, field.name) for field in dataclasses.fields(Options)}  # each has its flag
    paths = {name: Path(given[name]) for name in ("export_dir", "output")}
    wanted = Options(**{**given, **paths, "absent": tuple(flags.absent)})
    spark = options.read_spark(flags)
    with run_lock.read_run(flags.users_from_events):
        if spark is not None:
            from twotower_tf.score.spark_scoring import score_on_spark

            summary = score_on_spark(wanted, spark)
        else:
            from twotower_tf.score.score_users import score

            latest: deque[PoolState] = deque(maxlen=1)

            def format_peak() -> str:
                return f"{resources.format_bytes(latest[0].peak)} per worker" if latest else ""

            with progress_bar.shown(note=format_peak) as shown:
                summary = score(wanted, resume=flags.resume, progress=shown, log=_log, watch=latest.append)
    print(format_summary(summary, flags.output))
    print(artifacts.format_json(summary))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def format_summary(summary: dict[str, Any], output: str) -> str:
    """Formats the summary of a scoring as text."""
    lines = [
        f"{summary['users']:,} users in {output}, {summary['quarantined']:,} rows quarantined, "
        f"{summary['seconds']:.1f} s: {summary['users_per_second']:,.0f} users/s, "
        f"{summary['users_per_second_per_core']:,.0f} per core",
    ]
    if summary.get("scores"):
        scores = summary["scores"]
        lines.append(
            f"{summary['answers']:,} answers with {summary['distinct_items']:,} of {summary['items']:,} items; scores "
            f"{scores['min']:.3f} to {scores['max']:.3f}, median {scores['0.5']:.3f}"
        )
    if summary.get("restarts"):
        lines.append(f"workers that died and were replaced: {len(summary['restarts'])}; _summary.json has their units")
    return "\n".join(lines)
