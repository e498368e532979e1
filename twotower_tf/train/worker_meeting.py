"""Meets the other workers of a cluster before the training, so that a wrong cluster is one clear line and not a hang.

Every process listens at its own address and reports to the first one what it is about to train, and with which
versions. The first compares all reports with its own and answers each with nothing, or with the reason why none of them
starts. TensorFlow listens at the same addresses afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from twotower_tf.errors import ConfigError
from twotower_tf.train.cluster_task import ClusterTask, split_address

Report = Mapping[str, str]

_LONGEST = 1 << 16  # bytes of a report
_PAUSE = 0.2  # seconds between attempts to connect
_ATTEMPT = 5.0  # seconds that one connection may take
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
    with _listening(task) as server:
        if task.is_chief:
            _receive_all(task, report, server)
        else:
            _report_to_chief(task, report)


@contextlib.contextmanager
def _listening(task: ClusterTask) -> Iterator[socket.socket]:
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
    present: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as connections:
        problem = ""
        while not problem and len(present) < len(task.addresses) - 1:
            server.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = [task.describe(each) for each in range(1, len(task.addresses)) if each not in present]
                problem = (
                    f"cluster: {', '.join(missing)} did not come within {task.timeout:g} seconds; start it, or raise "
                    "--cluster_timeout"
                )
                break
            connections.enter_context(connection)
            other = _read_line(connection, _ATTEMPT)
            index = other.get("index")
            if not isinstance(index, int) or not 0 < index < len(task.addresses):
                continue  # a port scanner, or a worker that went away
            if index in present and _is_open(present[index]):
                problem = f"cluster: two processes are {task.describe(index)}; give each its own task.index"
            present[index] = connection
            problem = problem or _compare(task, index, report, other.get("report") or {})
        for connection in present.values():
            with contextlib.suppress(OSError):
                _write_line(connection, {"problem": problem})
        if problem:
            raise ConfigError(problem)


def _compare(task: ClusterTask, index: int, report: Report, other: Report) -> str:
    """Returns the first difference between the reports of the first worker and another, or ""."""
    for name, value in report.items():
        if other.get(name) != value:
            return (
                f"cluster: {task.describe(index)} has {name} {other.get(name, 'none')}, {task.names[0]} has "
                f"{value}; start all workers with the same"
            )
    return ""


def _report_to_chief(task: ClusterTask, report: Report) -> None:
    host, port = split_address(task.addresses[0])
    deadline = time.monotonic() + task.timeout
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port or 0), timeout=_ATTEMPT) as connection:
                _write_line(connection, {"index": task.index, "report": dict(report)})
                answer = _read_line(connection, deadline - time.monotonic() + _MARGIN)
        except OSError:
            answer = {}
        if "problem" in answer:
            if answer["problem"]:
                raise ConfigError(str(answer["problem"]))
            return
        time.sleep(_PAUSE)  # it has not started yet, or was restarted
    raise ConfigError(
        f"cluster: {task.describe(0)} did not answer within {task.timeout:g} seconds; start it, correct its address, "
        "or raise --cluster_timeout"
    )


def _write_line(connection: socket.socket, document: Mapping[str, Any]) -> None:
    connection.settimeout(_ATTEMPT)
    connection.sendall(json.dumps(document).encode() + b"\n")


def _read_line(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """Reads a JSON object of one line; {} where another thing comes, or nothing in time."""
    deadline, text = time.monotonic() + seconds, b""
    with contextlib.suppress(OSError, ValueError):
        while not text.endswith(b"\n") and len(text) < _LONGEST:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(1 << 12)
            if not part:
                return {}
            text += part
        document = json.loads(text)
        return document if isinstance(document, dict) else {}
    return {}


def _is_open(connection: socket.socket) -> bool:
    """Tests whether the other end still waits."""
    connection.settimeout(0.0)
    try:
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
