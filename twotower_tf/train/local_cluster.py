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
from collections.abc import Mapping, Sequence
from typing import IO

from twotower_tf import resources
from twotower_tf.errors import FailedWorkerError, LostWorkerError, TwoTowerError
from twotower_tf.train.cluster_task import MULTI_WORKER, PARAMETER_SERVER, VARIABLE

_POLL = 0.1  # seconds
_LEAVING = 5.0  # seconds that other processes have to end by themselves after the chief has done the training
_GRACE = 10.0  # seconds that a process has to end by itself after a signal
_INTERPRETER = (sys.executable, "-m", "twotower_tf", "train")


def run_cluster(workers: int, arguments: Sequence[str], *, servers: int = 0, restarts: int = 0) -> None:
    """Trains with several processes, each of whose lines is printed with the process's name.

    Args:
        workers: worker processes.
        arguments: flags of `twotower train`, without `--strategy`.
        servers: parameter servers, which have a chief in addition.
        restarts: how often a process is started again that ends before the training does. A worker of a training with
            servers is started by itself; otherwise the cluster is started again as a whole, with --resume.

    Raises:
        FailedWorkerError: where a process fails; all others are ended first.
    """
    jobs = {"chief": 1, "worker": workers, "ps": servers} if servers else {"worker": workers}
    resumed = list(arguments)
    for attempt in range(restarts + 1):
        cluster = _Cluster(jobs, resumed, restarts - attempt)
        try:
            failed = cluster.wait()
        finally:
            cluster.end()
        if failed is None:
            return
        resumed = [*arguments, "--resume"]
        name, status = failed
        line = f"{name} {_describe_status(status)}"
        if status == TwoTowerError.exit_status or attempt == restarts:  # invalid input is invalid next time, too
            again = "" if status == TwoTowerError.exit_status else "; continue with --resume"
            raise FailedWorkerError(f"{line}{again}", status if status > 0 else 128 - status)
        print(f"launch: {line}; starting again after the last checkpoint ({attempt + 1} of {restarts})", flush=True)


class _Cluster:
    """Processes of one training, by names such as "worker 0"."""

    def __init__(self, jobs: Mapping[str, int], arguments: Sequence[str], returns: int) -> None:
        """Starts so many processes of each job; workers of a training with servers may return so often in all."""
        addresses = _find_addresses(sum(jobs.values()))
        names = [(job, number) for job, count in jobs.items() for number in range(count)]
        self._addresses = {
            job: [address for place, address in zip(names, addresses, strict=True) if place[0] == job] for job in jobs
        }
        self._strategy = PARAMETER_SERVER if "ps" in jobs else MULTI_WORKER
        self._arguments = [*arguments, f"--strategy={self._strategy}"]
        self._cores = str(max(1, resources.count_cpus() // len(addresses)))
        self._returns = returns
        self._readers: list[threading.Thread] = []
        self._processes: dict[str, subprocess.Popen[str]] = {}
        try:
            for job, number in names:
                self._start(f"{job} {number}")
        except BaseException:
            self.end()
            raise

    def _start(self, name: str) -> None:
        job, number = name.split()
        document = {"cluster": self._addresses, "task": {"type": job, "index": int(number)}}
        environment = {**os.environ, VARIABLE: json.dumps(document), "PYTHONUNBUFFERED": "1"}
        for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            environment.setdefault(variable, self._cores)
        process = subprocess.Popen(
            [*_INTERPRETER, *self._arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._processes[name] = process
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            reader = threading.Thread(target=_copy_lines, args=(name, source, target), daemon=True)
            reader.start()
            self._readers.append(reader)

    def wait(self) -> tuple[str, int] | None:
        """Waits for all; returns name and exit status of the first that failed, the cause before its consequences."""
        done = 0.0
        while True:
            found = {name: process.poll() for name, process in self._processes.items()}
            failed = [(name, status) for name, status in found.items() if status and not self._may_miss(name, status)]
            if failed:
                lost = LostWorkerError.exit_status
                return min(failed, key=lambda each: each[1] == lost)
            if all(status is not None for status in found.values()) or (done and time.monotonic() > done + _LEAVING):
                return None
            if not done and found.get("chief 0") == 0:
                done = time.monotonic()
            time.sleep(_POLL)

    def _may_miss(self, name: str, status: int) -> bool:
        """Tests whether the training goes on without a process; starts it again where it may return."""
        if self._strategy != PARAMETER_SERVER or not name.startswith("worker") or status == TwoTowerError.exit_status:
            return False
        if self._returns and self._processes["chief 0"].poll() is None:
            self._returns -= 1
            print(f"launch: {name} {_describe_status(status)}; starting it again", flush=True)
            self._start(name)
        return True

    def end(self) -> None:
        """Ends all processes, and prints what they have left to say."""
        deadline = time.monotonic() + _GRACE
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join(_GRACE)


def _copy_lines(name: str, source: IO[str] | None, target: IO[str]) -> None:
    for line in source or ():
        print(f"[{name}] {line.rstrip()}", file=target, flush=True)


def _find_addresses(count: int) -> list[str]:
    """Finds ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def _describe_status(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
