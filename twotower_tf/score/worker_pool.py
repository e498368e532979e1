"""Worker processes and their units: handed out one by one, taken back from a worker that dies, given to another.

Workers may be started before there is a job for them: they load TensorFlow while the parent plans.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from twotower_tf import errors, interpreter
from twotower_tf.errors import DataError
from twotower_tf.score import worker
from twotower_tf.score.job import Job
from twotower_tf.score.units import Unit
from twotower_tf.score.worker import Advanced, Failed, Finished, Ready, Task
from twotower_tf.score.worker_sizing import SMALLEST, Size

_SHRINK = 4  # times fewer rows after a death
_DEATHS = 4  # of workers over one unit, or in a row while they start, before that is an error
_HELD = 2  # units of one worker: the next is read while the last is written
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")

Tell = Callable[[str], None]


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    tasks: list[Task] = field(default_factory=list)
    ready: bool = False
    failed: Failed | None = None


@dataclass
class State:
    """How far the scoring is.

    Attributes:
        rows: read so far, by unit; of a unit that is begun again from zero.
        peak: the most memory that any worker has had, in bytes.
        restarts: one object per worker that died: unit, why, and the rows at a time that the unit goes on with.
    """

    rows: dict[int, int] = field(default_factory=dict)
    peak: int = 0
    restarts: list[dict[str, Any]] = field(default_factory=list)


class Crew:
    """Workers of one job; leaving the context ends them."""

    def __init__(self, size: Size, tell: Tell) -> None:
        """Starts nothing yet.

        Args:
            size: how many, and their threads.
            tell: is told of workers that died.
        """
        self._size, self._tell = size, tell
        self._job: Job | None = None
        self._rows = 0
        self._where: Callable[[Unit], str] = str
        self._workers: list[_Worker] = []
        self._pending: deque[Task] = deque()
        self._deaths: dict[int, int] = {}
        self._stillborn = 0
        self.state = State()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop(self._workers)

    def start(self) -> None:
        """Starts all workers, which wait for the job."""
        for _ in range(self._size.workers):
            self._start()

    def run(
        self,
        job: Job,
        units: Sequence[Unit],
        rows: int,
        where: Callable[[Unit], str],
        advanced: Callable[[State], None],
    ) -> None:
        """Scores units.

        Args:
            job: of the workers.
            units: to score.
            rows: at a time.
            where: names a unit to people.
            advanced: is called whenever something has been written.

        Raises:
            TwoTowerError: as a worker met it; DataError where workers die again and again.
        """
        self._job, self._rows, self._where = job, rows, where
        self._pending.extend(Task(unit, rows) for unit in units)
        left = len(units)
        wanted = min(self._size.workers, left)
        self._stop(self._workers[wanted:])
        self._workers = self._workers[:wanted]
        for each in self._workers:
            with contextlib.suppress(OSError):  # one that has died is buried as soon as it is heard of
                each.connection.send(job)
        while len(self._workers) < wanted:
            self._start()
        while left:
            for each in self._heard():
                left -= self._receive(each, advanced)

    def _heard(self) -> Iterator[_Worker]:
        """Workers that have something to say, or have died."""
        spoken = wait(
            [each.connection for each in self._workers] + [each.process.sentinel for each in self._workers], 1
        )
        for each in list(self._workers):
            if each.connection in spoken or each.process.sentinel in spoken:
                yield each

    def _receive(self, each: _Worker, advanced: Callable[[State], None]) -> int:
        """Takes one message of a worker; returns the units that it finished."""
        try:
            message = each.connection.recv() if each.connection.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            if not each.process.is_alive():
                self._bury(each)
            return 0
        if isinstance(message, Ready):
            each.ready, self._stillborn = True, 0
        elif isinstance(message, Advanced):
            self.state.rows[message.unit] = self.state.rows.get(message.unit, 0) + message.rows
            self.state.peak = max(self.state.peak, message.peak)
            advanced(self.state)
        elif isinstance(message, Finished):
            (done,) = (task.unit for task in each.tasks if task.unit.number == message.unit)
            each.tasks = [task for task in each.tasks if task.unit is not done]
            read = self.state.rows.get(done.number, 0)
            if done.rows > read:  # records that are no rows, blank lines: planned, and in no table
                self.state.rows[done.number] = done.rows
                advanced(self.state)
            self.state.peak = max(self.state.peak, message.peak)
        elif isinstance(message, Failed):
            each.failed = message
            self._refuse(message)
        self._hand_out(each)
        return int(isinstance(message, Finished))

    def _refuse(self, failed: Failed) -> None:
        if failed.kind == "fault":
            raise RuntimeError(f"a worker failed: {failed.message}\n{failed.trace}")
        if failed.kind != "memory":
            kind: type[Exception] = getattr(errors, failed.kind, DataError)
            raise kind(failed.message)

    def _hand_out(self, each: _Worker) -> None:
        while each.ready and each.failed is None and len(each.tasks) < _HELD and self._pending:
            small = self._pending[0].rows < self._rows
            if small and each.tasks:  # alone, where memory was short
                return
            task = self._pending.popleft()
            try:
                each.connection.send(task)
            except OSError:  # it has just died; its burial takes its tasks back
                self._pending.appendleft(task)
                return
            each.tasks.append(task)
            if small:
                return

    def _bury(self, each: _Worker) -> None:
        """Takes back the units of a worker that died; the one that it worked at goes on with fewer rows at a time."""
        each.process.join()
        each.connection.close()
        self._workers.remove(each)
        why = _reason(each)
        if not each.tasks:
            self._stillborn += 1
            if self._stillborn >= _DEATHS * self._size.workers:
                raise DataError(
                    f"--workers: workers end before they score anything: {why}; start fewer, with --workers"
                )
        for number, task in reversed(list(enumerate(each.tasks))):
            self.state.rows.pop(task.unit.number, None)
            rows = task.rows
            if number == 0:
                rows = self._blame(task, why)
            self._pending.appendleft(Task(task.unit, rows))
        self._start()
        for other in self._workers:
            self._hand_out(other)

    def _blame(self, task: Task, why: str) -> int:
        where = self._where(task.unit)
        deaths = self._deaths[task.unit.number] = self._deaths.get(task.unit.number, 0) + 1
        if deaths >= _DEATHS:
            raise DataError(
                f"{where}: {deaths} workers died over it, the last with {task.rows:,} rows at a time: {why}; give them "
                "more memory: fewer --workers"
            )
        rows = max(SMALLEST, task.rows // _SHRINK)
        self.state.restarts.append({"unit": task.unit.number, "where": where, "why": why, "rows_at_a_time": rows})
        self._tell(f"{where}: a worker died ({why}); another one goes on, {rows:,} rows at a time")
        return rows

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with interpreter.spawn_with(environment(self._size.threads)):
            process = context.Process(target=worker.main, args=(theirs,), daemon=True)
            process.start()
        theirs.close()
        if self._job is not None:
            ours.send(self._job)
        self._workers.append(_Worker(process, ours))

    def _stop(self, workers: Sequence[_Worker]) -> None:
        """A worker ends when its pipe closes; one that does not, or has not begun, is killed."""
        for each in workers:
            each.connection.close()
            if not each.ready:
                each.process.kill()
        deadline = time.monotonic() + 5
        for each in workers:
            each.process.join(max(0.0, deadline - time.monotonic()))
            if each.process.is_alive():
                each.process.kill()
                each.process.join()


def _reason(each: _Worker) -> str:
    if each.failed is not None:
        return f"out of memory: {each.failed.message.splitlines()[0][:200]}" if each.failed.message else "out of memory"
    code = each.process.exitcode or 0
    if code == -signal.SIGKILL:
        return "killed, as the kernel does when memory runs out"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def environment(threads: int) -> dict[str, str]:
    """What libraries read, when they are loaded, to keep to so many threads."""
    numbers = {name: str(threads) for name in _THREADS}
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    return {**numbers, "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": level, "CUDA_VISIBLE_DEVICES": "-1"}
