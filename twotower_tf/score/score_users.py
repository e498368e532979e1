"""Scores every user of a table: streamed, by several processes, resumable at any moment.

The parent plans, submits units and sums their counts; it never reads a row and never imports TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twotower_tf import artifacts
from twotower_tf.bundle.bundle import Bundle
from twotower_tf.index import topk
from twotower_tf.progress import Progress, silent
from twotower_tf.score import answer_stats, worker_sizing
from twotower_tf.score.job import Job
from twotower_tf.score.journal import SUMMARY
from twotower_tf.score.score_options import Options
from twotower_tf.score.score_plan import Planner
from twotower_tf.score.units import Unit
from twotower_tf.score.worker_pool import Log, PoolState, WorkerPool


def score(
    options: Options,
    *,
    resume: bool = True,
    progress: Progress = silent,
    log: Log = lambda line: None,
    watch: Callable[[PoolState], None] = lambda state: None,
) -> dict[str, Any]:
    """Scores every user, or those that an interrupted scoring has left.

    Args:
        options: what to score.
        resume: continues an interrupted scoring; False deletes it and starts over.
        progress: called with the number of users.
        log: called with a line for each worker that died.
        watch: called with the state of the workers after every unit.

    Returns:
        The summary, which is also written to the output.

    Raises:
        TwoTowerError: for options, a bundle or input that cannot be used, before anything is written; DataError also
            where the output holds a scoring of other input, settings or bundle, and where the users' files change
            while they are read.
    """
    began = time.monotonic()
    options.check()
    size = worker_sizing.choose_workers(
        options, Bundle.open(options.export_dir, options.version, check="light").manifest
    )
    with WorkerPool(size, log) as pool:
        if not (Path(options.output) / SUMMARY).is_file():  # else there may be nothing to do
            pool.start()
        planner = Planner(options)
        with planner.journal.lock():
            if not resume:
                planner.journal.clear()
            if planner.is_finished():
                return artifacts.read_json(planner.journal.output / SUMMARY, "scoring")
            job, units = planner.make_plan()
            done = {unit.number for unit in units if planner.journal.unit_result(unit.number) is not None}
            with planner.users.held():
                _run(pool, planner, job, units, done, progress, watch)
            summary = summarize(planner, job, units, began, done)
            summary |= {
                "workers": size.workers,
                "threads": size.threads,
                "peak_worker_bytes": pool.state.peak,
                "restarts": pool.state.restarts,
            }
            artifacts.write_json(planner.journal.output / SUMMARY, summary)
            planner.journal.remove_work_files()
            return summary


def _run(
    pool: WorkerPool,
    planner: Planner,
    job: Job,
    units: Sequence[Unit],
    done: set[int],
    progress: Progress,
    watch: Callable[[PoolState], None],
) -> None:
    total = sum(unit.rows for unit in units) if all(unit.rows for unit in units) else 0
    before = sum(unit.rows for unit in units if unit.number in done)

    def advanced(state: PoolState) -> None:
        watch(state)
        progress("score", before + sum(state.rows.values()), total)

    left = [unit for unit in units if unit.number not in done]
    pool.run(job, left, planner.rows, advanced)


def summarize(planner: Planner, job: Job, units: Sequence[Unit], began: float, before: set[int]) -> dict[str, Any]:
    """Sums the results of all units; `before` are the numbers of those that an earlier command finished."""
    journal = planner.journal
    notes = list(journal.unit_results(len(units)))
    items = planner.bundle.manifest["items"] if job.k else 0
    counted = answer_stats.sum_notes(notes, items)
    quarantined = journal.write_quarantine(len(units))
    seconds = time.monotonic() - began
    now = sum(note["users"] for note in notes if note["unit"] not in before)
    cores = min(topk.available_threads(), planner.size.workers * planner.size.threads)
    return {
        "schema_version": 1,
        "model_version": planner.bundle.version,
        "users": counted.users,
        "quarantined": quarantined,
        "files": len(units),
        "files_before": len(before),
        "seconds": round(seconds, 3),
        "users_per_second": round(now / seconds, 1),
        "users_per_second_per_core": round(now / seconds / cores, 1),
        "items": items,
        **counted.summary(),
    }
