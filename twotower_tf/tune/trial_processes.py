"""Processes that run trials, one trial at a time each; one that dies loses its own trial only."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Protocol

from twotower_tf import interpreter
from twotower_tf.tune.run_trial import Task, run_trial
from twotower_tf.tune.trial_record import Outcome


class Runner(Protocol):
    """What runs trials."""

    def start(self, task: Task) -> Future[Outcome]:
        """Starts a trial; the future has its outcome."""

    def close(self) -> None:
        """Ends at once, also within a trial."""


class TrialProcess:
    """A process that runs trials one after the other. It imports TensorFlow once."""

    def __init__(self, threads: int) -> None:
        """Starts nothing yet; `threads` are those of its libraries."""
        self._threads = threads
        self._executor: ProcessPoolExecutor | None = None
        self._process: BaseProcess | None = None

    def start(self, task: Task) -> Future[Outcome]:
        """Starts a trial, in a new process where there is none; where it dies the outcome is a failure."""
        outcome: Future[Outcome] = Future()

        def finish(done: Future[Outcome]) -> None:
            error = done.exception()
            if isinstance(error, BrokenProcessPool):
                self._executor = None
                text = "the process was killed, as the kernel does when memory runs out; use fewer --jobs"
                outcome.set_result(Outcome("failed", error=text))
            elif error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(done.result())

        self._submit(task).add_done_callback(finish)
        return outcome

    def _submit(self, task: Task) -> Future[Outcome]:
        if self._executor is not None:
            return self._executor.submit(run_trial, task)
        before = set(multiprocessing.active_children())
        with interpreter.spawn_with(interpreter.make_environment(self._threads)):
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(1, context, interpreter.initialize_worker)
            submitted = self._executor.submit(run_trial, task)  # the first call starts the process
        self._process = next(iter(set(multiprocessing.active_children()) - before), None)
        return submitted

    def close(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.kill()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
