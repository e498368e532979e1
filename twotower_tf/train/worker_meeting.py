"""Meets the other workers of a cluster before the training, so that a wrong cluster is one clear line and not a hang.

Every process listens at its own address and reports to the first one what it is about to train, and with which
versions. The first compares all reports with its own and answers each with nothing, or with the reason why none of them
starts. TensorFlow listens at the same addresses afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twotower_tf.errors import ConfigError
from twotower_tf.train.cluster_task import ClusterTask, split_address
from twotower_tf.train.line_socket import LineSocket

Report = Mapping[str, str]

_PAUSE = 0.2  # seconds between attempts to connect
ATTEMPT = 5.0  # seconds that one connection may take
_MARGIN = 10.0  # seconds that an answer may come after the first process's deadline


def meet(task: ClusterTask, report: Report) -> None:
    """Waits until all workers are there and have the same report.

    Args:
        task: this process's place in the cluster.
        report: what must be the same on all workers, value by name, the names as an error has them.

    Raises:
        ConfigError: where a worker does not come within `task.timeout`, the port is in use, two processes have the
            same place, or a report differs; on every worker that has come.
    """
    with listening(task) as server:
        if task.is_chief:
            _receive_all(task, report, server)
        else:
            _report_to_chief(task, report)


@contextlib.contextmanager
def listening(task: ClusterTask) -> Iterator[socket.socket]:
    """Listens at this process's port on all interfaces, as TensorFlow does."""
    _, port = split_address(task.addresses[task.index])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port or 0), family=family, dualstack_ipv6=both, backlog=128)
    except OSError as error:
        reason = "in use by another process" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        raise ConfigError(
            f"TF_CONFIG: the port of {task.describe(task.index)} cannot be opened: {reason}; choose another port"
        ) from None
    with server:
        yield server


def _receive_all(task: ClusterTask, report: Report, server: socket.socket) -> None:
    deadline = time.monotonic() + task.timeout
    present: dict[int, LineSocket] = {}
    with contextlib.ExitStack() as connections:
        problem = ""
        while not problem and len(present) < len(task.addresses) - 1:
            server.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = [task.describe(each) for each in range(1, len(task.addresses)) if each not in present]
                problem = describe_missing(task, missing)
                break
            line = LineSocket(connections.enter_context(connection))
            other = line.receive(ATTEMPT)
            index = other.get("index")
            if not isinstance(index, int) or not 0 < index < len(task.addresses):
                continue  # a port scanner, or a worker that went away
            there = index in present and present[index].is_open()
            present[index] = line
            problem = problem or find_problem(task, index, there, report, other.get("report") or {})
        for line in present.values():
            line.send({"problem": problem})
        if problem:
            raise ConfigError(problem)


def describe_missing(task: ClusterTask, missing: Sequence[str]) -> str:
    """Returns the line about processes that did not come."""
    them = "it" if len(missing) == 1 else "each of them"
    return (
        f"cluster: {', '.join(missing)} did not come within {task.timeout:g} seconds; start {them}, or raise "
        "--cluster_timeout"
    )


def find_problem(task: ClusterTask, index: int, there: bool, report: Report, other: Report) -> str:
    """Returns what is wrong with a process that has come, or "".

    Args:
        task: the cluster.
        index: of the process.
        there: whether another one has its place.
        report: of the first process.
        other: of that process.
    """
    if there:
        return f"cluster: two processes are {task.describe(index)}; give each its own task.index"
    for name, value in report.items():
        if other.get(name) != value:
            return (
                f"cluster: {task.describe(index)} has {name} {other.get(name, 'none')}, {task.names[0]} has "
                f"{value}; start all processes with the same"
            )
    return ""


def _report_to_chief(task: ClusterTask, report: Report) -> None:
    line, _ = connect(task, report)
    line.close()


def connect(task: ClusterTask, report: Report) -> tuple[LineSocket, dict[str, Any]]:
    """Reports to the first process and waits for its answer; returns the connection, which stays open, and the answer.

    Raises:
        ConfigError: where it does not answer within `task.timeout`, or answers with a problem.
    """
    host, port = split_address(task.addresses[0])
    deadline = time.monotonic() + task.timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            line = LineSocket(socket.create_connection((host, port or 0), timeout=ATTEMPT))
            line.send({"index": task.index, "report": dict(report)})
            answer = line.receive(deadline - time.monotonic() + _MARGIN)
            if answer.get("problem") == "":
                return line, answer
            line.close()
            if "problem" in answer:
                raise ConfigError(str(answer["problem"]))
        time.sleep(_PAUSE)  # it has not started yet, or was restarted
    raise _missed(task)


def wait_for_chief(task: ClusterTask) -> None:
    """Waits until the first process listens.

    Raises:
        ConfigError: where it does not within `task.timeout`.
    """
    host, port = split_address(task.addresses[0])
    deadline = time.monotonic() + task.timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port or 0), timeout=ATTEMPT):
            return
        time.sleep(_PAUSE)
    raise _missed(task)


def _missed(task: ClusterTask) -> ConfigError:
    return ConfigError(
        f"cluster: {task.describe(0)} did not answer within {task.timeout:g} seconds; start it, correct its address, "
        "or raise --cluster_timeout"
    )
