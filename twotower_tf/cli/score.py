"""Recommends items to every user of a table, from a bundle: streamed, parallel, resumable, in bounded memory.

Answers are written to OUTPUT/part-*.parquet (user_id, item_ids, scores, model_version). After an interruption the same
command continues; every row of the table is answered once. Invalid rows are written to OUTPUT/_quarantine.jsonl:
    twotower score --export_dir=export/shop --users=data/shop/users --output=answers/today --k=50
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from absl.flags import FlagValues

from twotower_tf import artifacts, progress_bar, resources, run_lock
from twotower_tf.cli import options

if TYPE_CHECKING:
    from twotower_tf.score.worker_pool import PoolState

REQUIRED = ("export_dir", "output")


def define(values: FlagValues) -> None:
    """Defines the command's flags."""
    options.export_dir(values)
    flags.DEFINE_string("users", "", "file, glob or directory of users, with the model's columns", flag_values=values)
    flags.DEFINE_string(
        "users_from_events",
        "",
        "a run directory: scores all users of its log with their latest features and history, instead of --users",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "directory to write the answers to", flag_values=values)
    options.top_k(values)
    flags.DEFINE_enum("format", "parquet", ["parquet", "tsv"], "file format of the answers", flag_values=values)
    flags.DEFINE_bool("vectors_only", False, "writes user vectors instead of answers", flag_values=values)
    options.item_filters(values)
    options.names(values)
    flags.DEFINE_string(
        "exclude",
        "",
        "file, glob or directory of (user, item) pairs to exclude, e.g. an event log",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "exclude_seen", False, "with --users_from_events: exclude each user's past positives", flag_values=values
    )
    flags.DEFINE_list(
        "absent", [], "feature columns that may be missing from the users, e.g. history", flag_values=values
    )
    flags.DEFINE_integer(
        "at", None, "request time in epoch seconds, if users have no time column (default: now)", flag_values=values
    )
    options.version(values)
    flags.DEFINE_bool("resume", True, "continue an interrupted scoring; --resume=false starts over", flag_values=values)
    flags.DEFINE_integer("workers", 0, "processes; 0: as cores and memory allow", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("threads", 0, "threads per process; 0: cores / workers", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "memory_limit",
        "",
        "memory of all workers, e.g. 8GB (default: half of the machine's memory)",
        flag_values=values,
    )
    flags.DEFINE_enum("engine", "local", ["local", "spark"], "engine that runs the workers", flag_values=values)
    options.spark_flags(values)


def run(values: FlagValues) -> None:
    """Scores every user."""
    options.check_k(values)
    from twotower_tf.score.score_options import Options

    wanted = Options(
        export_dir=Path(values.export_dir),
        output=Path(values.output),
        users=values.users,
        users_from_events=values.users_from_events,
        version=values.version,
        k=values.k,
        max_k=values.max_k,
        vectors_only=values.vectors_only,
        format=values.format,
        filter=values.filter,
        names=values.names,
        blocklist=values.blocklist,
        exclude=values.exclude,
        exclude_seen=values.exclude_seen,
        absent=tuple(values.absent),
        at=values.at,
        workers=values.workers,
        threads=values.threads,
        memory_limit=values.memory_limit,
    )
    spark = options.spark(values)
    with run_lock.read_run(values.users_from_events):
        if spark is not None:
            from twotower_tf.score.spark_scoring import score_on_spark

            summary = score_on_spark(wanted, spark)
        else:
            from twotower_tf.score.score_users import score

            note = _Memory()
            with progress_bar.shown(note=note) as shown:
                summary = score(wanted, resume=values.resume, progress=shown, log=_log, watch=note.watch)
    print(format_summary(summary, values.output))
    print(artifacts.format_json(summary))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Memory:
    """Keeps the workers' peak memory, for the progress display."""

    def __init__(self) -> None:
        self._peak = 0

    def watch(self, state: PoolState) -> None:
        """Stores the peak memory of a worker."""
        self._peak = state.peak

    def __call__(self) -> str:
        return f"{resources.format_bytes(self._peak)} per worker" if self._peak else ""


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
        lines.append(f"{len(summary['restarts'])} workers died and were replaced; see _summary.json for the units")
    return "\n".join(lines)
