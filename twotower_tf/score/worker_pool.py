"""Runs worker processes: pools of `concurrent.futures`, replaced when their process dies.

Units are idempotent (see `journal`), so the unit of a dead worker is scored again, with fewer rows at a time.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from twotower_tf import interpreter
from twotower_tf.errors import DataError
from twotower_tf.score import worker
from twotower_tf.score.job import Job
from twotower_tf.score.units import Unit
from twotower_tf.score.worker import UnitResult
from twotower_tf.score.worker_sizing import SMALLEST, Size

_SHRINK = 4  # factor by which a unit's rows at a time shrink after a death
_MAX_DEATHS = 4  # workers that may die over one unit

Log = Callable[[str], None]


@dataclass
class PoolState:
    """Progress of a scoring.

    Attributes:
        rows: rows of each finished unit, by its number.
        peak: the most memory that any worker has had, in bytes.
        restarts: one object per worker that died: `unit`, `where`, `why`, and the `rows_at_a_time` of the next attempt.
    """

    rows: dict[int, int] = field(default_factory=dict)
    peak: int = 0
    restarts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Task:
    """A unit to score, `rows` at a time, after `deaths` attempts."""

    unit: Unit
    rows: int
    deaths: int = 0


class _Worker:
    """A pool of one process.

    A pool loses all its processes when one of them dies. With a pool for each, the others keep their bundle and their
    unit, and it is known which unit the dead one was scoring.
    """

    def __init__(self, threads: int) -> None:
        """Starts the process, which imports TensorFlow at once."""
        before = set(multiprocessing.active_children())
        # The pool's semaphores start multiprocessing's resource tracker, and its first call starts the worker.
        with interpreter.spawn_with(interpreter.make_environment(threads)):
            self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), interpreter.initialize_worker)
            self._executor.submit(worker.warm_up)
        started = set(multiprocessing.active_children()) - before
        self._process: BaseProcess | None = next(iter(started), None)

    def score(self, job: Job, task: _Task) -> Future[UnitResult]:
        """Starts to score a unit."""
        source = job.sources[task.unit.file]
        try:
            return self._executor.submit(worker.score_unit, job.without_sources(), source, task.unit, task.rows)
        except BrokenProcessPool as error:  # the process has died while it had nothing to do
            failed: Future[UnitResult] = Future()
            failed.set_exception(error)
            return failed

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Waits until the process has ended."""
        self.kill()
        self._executor.shutdown(cancel_futures=True)

    def death_cause(self) -> str:
        """Describes how the process ended."""
        code = None if self._process is None else self._process.exitcode
        deadline = time.monotonic() + 5
        while self._process is not None and code is None and time.monotonic() < deadline:
            time.sleep(0.01)  # the executor's own thread may be the one that collects the exit status
            code = self._process.exitcode
        if code is None:
            return "for an unknown reason"
        if code == -signal.SIGKILL:
            return "killed, as the kernel does when memory runs out"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class WorkerPool:
    """Workers of one job and the state of its scoring. Leaving the context ends them."""

    def __init__(self, size: Size, log: Log) -> None:
        """Starts nothing yet; `log` is called with a line for each worker that died."""
        self._size, self._log = size, log
        self._workers: list[_Worker] = []
        self.state = PoolState()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *raised: object) -> None:
        self._shrink(0)

    def start(self) -> None:
        """Starts all workers before their job is known."""
        while len(self._workers) < self._size.workers:
            self._workers.append(_Worker(self._size.threads))

    def run(
        self,
        job: Job,
        units: Sequence[Unit],
        rows: int,
        advanced: Callable[[PoolState], None],
    ) -> None:
        """Scores units of a job, `rows` at a time; `advanced` is called after every unit.

        Raises:
            TwoTowerError: as a worker raises it; DataError where workers die over a unit again and again.
        """
        pending = deque(_Task(unit, rows) for unit in units)
        running: dict[Future[UnitResult], tuple[_Worker, _Task]] = {}
        self._shrink(min(self._size.workers, len(pending)))
        idle = list(self._workers)
        while pending or running:
            while pending and len(running) < self._size.workers:
                each = idle.pop() if idle else self._add()
                task = pending.popleft()
                running[each.score(job, task)] = each, task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                each, task = running.pop(future)
                try:
                    result = future.result()
                except (BrokenProcessPool, MemoryError) as error:
                    pending.appendleft(self._retry(each, task, error, job.name_unit(task.unit)))
                    continue
                idle.append(each)
                self.state.rows[task.unit.number] = result.rows
                self.state.peak = max(self.state.peak, result.peak)
                advanced(self.state)

    def _add(self) -> _Worker:
        self._workers.append(_Worker(self._size.threads))
        return self._workers[-1]

    def _retry(self, dead: _Worker, task: _Task, error: Exception, where: str) -> _Task:
        """Removes a worker that died or ran out of memory; returns the next attempt at its unit."""
        if isinstance(error, MemoryError):
            why = f"out of memory: {str(error).splitlines()[0][:200]}" if str(error) else "out of memory"
        else:
            why = dead.death_cause()
        dead.close()
        self._workers.remove(dead)
        deaths = task.deaths + 1
        if deaths >= _MAX_DEATHS:
            raise DataError(
                f"{where}: {deaths} workers died while scoring it, the last with {task.rows:,} rows at a time: {why}; "
                "give each more memory with fewer --workers"
            )
        rows = max(SMALLEST, task.rows // _SHRINK)
        self.state.restarts.append({"unit": task.unit.number, "where": where, "why": why, "rows_at_a_time": rows})
        self._log(f"{where}: a worker died ({why}); another one continues, {rows:,} rows at a time")
        return _Task(task.unit, rows, deaths)

    def _shrink(self, count: int) -> None:
        """Ends workers until `count` are left."""
        surplus, self._workers = self._workers[count:], self._workers[:count]
        for each in surplus:
            each.kill()
        for each in surplus:
            each.close()
