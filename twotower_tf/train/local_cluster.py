"""Starts a cluster of `twotower train` processes on this machine, and restarts it where one of them ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from twotower_tf import resources
from twotower_tf.errors import FailedWorkerError, LostWorkerError, TwoTowerError
from twotower_tf.train.cluster_task import VARIABLE

_POLL = 0.1  # seconds
_GRACE = 10.0  # seconds that a process has to end by itself after a signal
_INTERPRETER = (sys.executable, "-m", "twotower_tf", "train")

Write = Callable[[str, IO[str]], object]


def run_cluster(workers: int, arguments: Sequence[str], *, restarts: int = 0) -> None:
    """Trains with several worker processes, each of whose lines is printed with the worker's name.

    Args:
        workers: processes.
        arguments: flags of `twotower train`, without `--strategy`.
        restarts: how often the cluster is started again, with --resume, where a worker ends before the training does.

    Raises:
        FailedWorkerError: where a worker fails; all others are ended first.
    """
    for attempt in range(restarts + 1):
        resumed = [*arguments, "--resume"] if attempt else arguments
        cluster = _Cluster(workers, resumed)
        try:
            failed = cluster.wait()
        finally:
            cluster.end()
        if failed is None:
            return
        number, status = failed
        line = f"worker {number} {_describe_status(status)}"
        if status == TwoTowerError.exit_status or attempt == restarts:  # invalid input is invalid next time, too
            again = "" if status == TwoTowerError.exit_status else "; continue with --resume"
            raise FailedWorkerError(f"{line}{again}", status if status > 0 else 128 - status)
        print(f"launch: {line}; starting again after the last checkpoint ({attempt + 1} of {restarts})", flush=True)


class _Cluster:
    """Worker processes of one training."""

    def __init__(self, workers: int, arguments: Sequence[str]) -> None:
        addresses = _find_addresses(workers)
        self._readers: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[str]] = []
        try:
            for number in range(workers):
                self._start(number, addresses, arguments)
        except BaseException:
            self.end()
            raise

    def _start(self, number: int, addresses: Sequence[str], arguments: Sequence[str]) -> None:
        document = {"cluster": {"worker": list(addresses)}, "task": {"type": "worker", "index": number}}
        environment = {**os.environ, VARIABLE: json.dumps(document), "PYTHONUNBUFFERED": "1"}
        cores = str(max(1, resources.count_cpus() // len(addresses)))
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            environment.setdefault(name, cores)
        process = subprocess.Popen(
            [*_INTERPRETER, *arguments, "--strategy=multi_worker"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._processes.append(process)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            reader = threading.Thread(target=_copy_lines, args=(number, source, target), daemon=True)
            reader.start()
            self._readers.append(reader)

    def wait(self) -> tuple[int, int] | None:
        """Waits for all; returns number and exit status of the first that failed, the cause before its consequences."""
        while True:
            found = [process.poll() for process in self._processes]
            failed = [(number, status) for number, status in enumerate(found) if status]
            if failed:
                lost = LostWorkerError.exit_status
                return min(failed, key=lambda each: each[1] == lost)
            if all(status == 0 for status in found):
                return None
            time.sleep(_POLL)

    def end(self) -> None:
        """Ends all processes, and prints what they have left to say."""
        deadline = time.monotonic() + _GRACE
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join(_GRACE)


def _copy_lines(number: int, source: IO[str] | None, target: IO[str]) -> None:
    for line in source or ():
        print(f"[worker {number}] {line.rstrip()}", file=target, flush=True)


def _find_addresses(count: int) -> list[str]:
    """Finds ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def _describe_status(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
