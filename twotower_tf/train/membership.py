"""Keeps contact between the chief of a cluster with parameter servers and all other processes, while they train.

The chief listens at its address in TF_CONFIG. Every other process connects to it, reports what it is about to train
(as `worker_meeting` has it), and stays connected: a process that ends is noticed at once, a silent one after
`--cluster_timeout` seconds. A worker that was started again joins the training that goes on.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from twotower_tf.errors import ConfigError, LostWorkerError
from twotower_tf.train import worker_meeting
from twotower_tf.train.cluster_task import ClusterTask, split_address
from twotower_tf.train.line_socket import LineSocket
from twotower_tf.train.worker_meeting import Report

_BEATS = 4  # messages that a process sends within the time after which a silent one is lost
_LONGEST_PAUSE = 5.0  # seconds between two of them
_DONE, _PEAK = "done", "peak_rss_bytes"


class Membership:
    """The chief's view of the cluster.

    Attributes:
        peak_bytes: the largest memory of each other process so far, by its name.
    """

    def __init__(self, task: ClusterTask, report: Report, log: Callable[[str], object] = lambda line: None) -> None:
        """Begins to listen.

        Args:
            task: the cluster; this process is its chief.
            report: what must be the same in all processes.
            log: receives a line where a worker ends or returns.

        Raises:
            ConfigError: where the port is in use.
        """
        self.peak_bytes: dict[str, int] = {}
        self._task = task
        self._report = report
        self._log = log
        self._state = threading.Condition()
        self._present: dict[int, LineSocket] = {}
        self._problem = ""  # of the start
        self._lost = ""  # a process that the training cannot do without
        self._answer: dict[str, Any] | None = None  # to those that have come; None until all have
        self._closing = False
        self._without_workers = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._server = self._stack.enter_context(worker_meeting.listening(task))
        for work in (self._accept, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def wait_for_all(self, answer: dict[str, Any]) -> None:
        """Waits until all processes have come, and lets them go on.

        Args:
            answer: what they get.

        Raises:
            ConfigError: where one does not come within `timeout`, two have the same place, or a report differs.
        """
        others = range(1, len(self._task.addresses))
        with self._state:
            self._state.wait_for(lambda: self._problem or len(self._present) == len(others), self._task.timeout)
            missing = [self._task.describe(each) for each in others if each not in self._present]
            if missing and not self._problem:
                self._problem = worker_meeting.describe_missing(self._task, missing)
            self._answer = {"problem": self._problem, **answer}
            for connection in self._present.values():
                connection.send(self._answer)
        if self._problem:
            self.close(done=False)
            raise ConfigError(self._problem)

    def check(self) -> None:
        """Raises a `LostWorkerError` where a server is lost, a worker hangs, or all workers are away for too long."""
        with self._state:
            lost, alone = self._lost, not any(self._is_worker(each) for each in self._present)
            if not lost and alone and time.monotonic() - self._without_workers > self._task.timeout:
                lost = f"no worker has been there for {self._task.timeout:g} seconds"
        if lost:
            raise LostWorkerError(f"cluster: {lost}; start all processes again with --resume to continue after the "
                                  "last checkpoint")  # fmt: skip

    def wait_for_loss(self, seconds: float) -> None:
        """Calls `check` until it raises, for so many seconds: an error of TensorFlow may come before its reason."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            time.sleep(0.1)

    def close(self, *, done: bool) -> None:
        """Lets the other processes end: well where the training is done."""
        with self._state:
            self._closing = True
            for connection in self._present.values():
                if done:
                    connection.send({_DONE: True})
                connection.close()
        self._server.shutdown(socket.SHUT_RDWR)  # ends `accept`, too
        self._stack.close()

    def _is_worker(self, index: int) -> bool:
        return self._task.names[index].startswith("worker")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(LineSocket(connection),), daemon=True).start()

    def _serve(self, connection: LineSocket) -> None:
        """Receives one process's report, and what it sends until it ends."""
        first = connection.receive(worker_meeting.ATTEMPT)
        index = first.get("index")
        if not isinstance(index, int) or not 0 < index < len(self._task.addresses):
            connection.close()
            return  # a port scanner, or a process that went away
        with self._state:
            problem = worker_meeting.find_problem(
                self._task, index, index in self._present, self._report, first.get("report") or {}
            )
            if problem and self._answer is not None:
                connection.send({"problem": problem})
                connection.close()
                return
            self._problem = self._problem or problem
            self._present[index] = connection
            if self._answer is not None:
                connection.send(self._answer)
                self._log(f"cluster: {self._task.describe(index)} is back")
            self._state.notify_all()
        silent = self._receive(index, connection)
        with self._state:
            if self._present.get(index) is connection and not self._closing:
                del self._present[index]
                self._note_end(index, silent)
        connection.close()

    def _receive(self, index: int, connection: LineSocket) -> bool:
        """Reads until the end; returns whether the process is silent instead of having ended."""
        while True:
            begin = time.monotonic()
            message = connection.receive(self._task.timeout)
            if not message:
                return time.monotonic() - begin >= self._task.timeout
            self.peak_bytes[self._task.names[index]] = int(message.get(_PEAK, 0))

    def _note_end(self, index: int, silent: bool) -> None:
        name = self._task.describe(index)
        if self._answer is None:
            return  # it may come again while others are awaited
        if silent:
            self._lost = self._lost or f"{name} has not answered for {self._task.timeout:g} seconds"
        elif not self._is_worker(index):
            self._lost = self._lost or f"{name} has ended, and the rows that it held are lost"
        else:
            if not any(self._is_worker(each) for each in self._present):
                self._without_workers = time.monotonic()
            self._log(f"cluster: {name} has ended; the training goes on without it, and it may be started again")

    def _beat(self) -> None:
        while not self._closing:
            with self._state:
                for connection in self._present.values() if self._answer is not None else ():
                    connection.send({"beat": True})
            time.sleep(_pause(self._task))


class Contact:
    """The chief, as another process of the cluster is connected to it.

    Attributes:
        answer: what the chief gave all processes.
    """

    def __init__(self, task: ClusterTask, report: Report) -> None:
        """Waits until the chief lets this process go on.

        Raises:
            ConfigError: where the chief does not answer within `timeout`, or refuses the cluster or this process.
        """
        self._task = task
        with worker_meeting.listening(task):
            self._connection, self.answer = worker_meeting.connect(task, report)
        threading.Thread(target=self._beat, daemon=True).start()

    def wait_for_end(self) -> None:
        """Waits until the chief has done its training.

        Raises:
            LostWorkerError: where it ends before, or is silent for `timeout` seconds.
        """
        while True:
            message = self._connection.receive(self._task.timeout)
            if message.get(_DONE):
                return
            if not message:
                raise LostWorkerError(
                    f"cluster: {self._task.describe(0)} has ended or does not answer; start all processes again with "
                    "--resume to continue after the last checkpoint"
                )

    def _beat(self) -> None:
        while self._connection.send({_PEAK: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}):
            time.sleep(_pause(self._task))


def _pause(task: ClusterTask) -> float:
    return min(_LONGEST_PAUSE, task.timeout / _BEATS)


def choose_address(task: ClusterTask) -> str:
    """Returns a free address of this host, at which TensorFlow can listen."""
    host, _ = split_address(task.addresses[task.index])
    with socket.create_server(("", 0)) as free:
        return f"{f'[{host}]' if ':' in host else host}:{free.getsockname()[1]}"
