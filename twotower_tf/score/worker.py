"""A worker process: reads, computes and writes units, each in a thread of its own with bounded queues between.

It tells the parent, over a pipe, of every table done and every unit finished; when the pipe closes, it ends.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower_tf import artifacts
from twotower_tf.errors import TwoTowerError
from twotower_tf.score import skip_imports
from twotower_tf.score.answer_tables import part_name
from twotower_tf.score.job import Job, note
from twotower_tf.score.journal import Journal
from twotower_tf.score.unit_reader import Bad, Rows
from twotower_tf.score.units import Unit

AHEAD = 2  # tables between two stages


@dataclass(frozen=True)
class Task:
    """A unit to score, `rows` at a time."""

    unit: Unit
    rows: int


@dataclass(frozen=True)
class Ready:
    """The bundle is loaded."""


@dataclass(frozen=True)
class Advanced:
    """Rows of a unit have been written; `peak` is the most memory that the worker has had so far, in bytes."""

    unit: int
    rows: int
    peak: int


@dataclass(frozen=True)
class Finished:
    """A unit is done; its part and note are there."""

    unit: int
    peak: int


@dataclass(frozen=True)
class Failed:
    """An error: of the input, of memory, or a fault of ours, with its traceback."""

    kind: str
    message: str
    trace: str


def main(connection: Connection) -> None:
    """Scores what comes over the pipe until it closes: first the job, then units."""
    serve(connection, _import_tensorflow, _loaded)


def serve(connection: Connection, prepare: Callable[[], None], load: Callable[[Job], Any]) -> None:
    """Prepares for any job, loads a scorer for the one that comes, and scores with it until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and closes the pipe
    outcome = Outbox(connection)
    try:
        prepare()
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):  # the parent has ended, or found nothing to do
            os._exit(0)
        pa.set_cpu_count(job.threads)
        scorer = load(job)
        outcome.send(Ready())
        _Pipeline(job, scorer, outcome).run(connection)
    except BaseException as error:
        outcome.fail(error)


def _import_tensorflow() -> None:
    skip_imports.refuse()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import_module("twotower_tf.score.scorer")


def _loaded(job: Job) -> Any:
    from twotower_tf.bundle.bundle import Bundle
    from twotower_tf.score.scorer import Scorer

    return Scorer(job, Bundle.open(job.export_dir, job.version, check="light"))


class Outbox:
    """Messages to the parent, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        """Sends; without a parent nothing is left to do."""
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            os._exit(1)

    def fail(self, error: BaseException) -> None:
        """Tells of an error and ends the process: the other threads may be waiting for the one that fell."""
        memory = isinstance(error, MemoryError | pa.ArrowMemoryError) or "ResourceExhausted" in type(error).__name__
        kind = type(error).__name__ if isinstance(error, TwoTowerError) else "memory" if memory else "fault"
        self.send(Failed(kind, str(error), traceback.format_exc()))
        os._exit(1)


def peak() -> int:
    """The most memory that this process has had, in bytes; what `getrusage` says includes the parent's."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


class _Pipeline:
    def __init__(self, job: Job, scorer: Any, outcome: Outbox) -> None:
        self._job, self._scorer, self._outcome = job, scorer, outcome
        self._journal = Journal(Path(job.output))
        self._tasks: queue.Queue[Task] = queue.Queue()
        self._read: queue.Queue[tuple[Task, Rows, Any]] = queue.Queue(AHEAD)
        self._computed: queue.Queue[tuple[Task, int, Any]] = queue.Queue(AHEAD)

    def run(self, connection: Connection) -> None:
        """Takes tasks from the pipe while the stages work."""
        for stage in (self._reading, self._computing, self._writing):
            threading.Thread(target=self._guarded, args=(stage,), daemon=True).start()
        while True:
            try:
                self._tasks.put(connection.recv())
            except (EOFError, OSError):  # the parent has ended, or needs no more
                os._exit(0)

    def _guarded(self, stage: Any) -> None:
        try:
            stage()
        except BaseException as error:
            self._outcome.fail(error)

    def _reading(self) -> None:
        while True:
            task = self._tasks.get()
            with self._job.open(task.unit, task.rows) as rows:
                for table in rows.batches:
                    self._read.put((task, rows, table))
                closed = threading.Event()  # the reader stays open until the unit's quarantine is known
                self._read.put((task, rows, closed))
                closed.wait()

    def _computing(self) -> None:
        while True:
            tally, bad, place = self._scorer.tally(), list[Bad](), 0
            while not isinstance((item := self._read.get())[2], threading.Event):
                task, _, table = item
                self._computed.put((task, table.num_rows, self._scorer.table(table, place, tally, bad)))
                place += table.num_rows
            task, rows, closed = item
            part = part_name(task.unit.number, self._job.format)
            kept = note(task.unit, part, tally, rows, bad, self._job.sources[task.unit.file])
            closed.set()
            self._computed.put((task, 0, kept))

    def _writing(self) -> None:
        while True:
            with ExitStack() as stack:
                task, count, item = self._computed.get()
                path = Path(self._job.output) / part_name(task.unit.number, self._job.format)
                writer = self._scorer.layout.writer(stack.enter_context(artifacts.atomic_file(path)))
                while not isinstance(item, dict):
                    writer.write(item)
                    self._outcome.send(Advanced(task.unit.number, count, peak()))
                    task, count, item = self._computed.get()
                writer.close()
            self._journal.finish(task.unit.number, item)
            self._outcome.send(Finished(task.unit.number, peak()))
