"""The cluster of a training as the environment variable TF_CONFIG describes it, and this process's place in it.

    {"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 1}}

The format is TensorFlow's own, which Kubernetes operators and other launchers set. A job `chief` with one address may
come before the workers; without it worker 0 is the chief, which writes the run directory. With parameter servers there
is a job `ps`, and the chief, which gives the workers their batches, is a process of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twotower_tf.errors import ConfigError

VARIABLE = "TF_CONFIG"
MULTI_WORKER, PARAMETER_SERVER = "multi_worker", "parameter_server"
JOBS = {MULTI_WORKER: ("chief", "worker"), PARAMETER_SERVER: ("chief", "worker", "ps")}
_EXAMPLES = {
    MULTI_WORKER: '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}',
    PARAMETER_SERVER: (
        '{"cluster": {"chief": ["HOST:PORT"], "worker": ["HOST:PORT", "HOST:PORT"], "ps": ["HOST:PORT"]}, '
        '"task": {"type": "worker", "index": 0}}'
    ),
}
_WANTED = {MULTI_WORKER: "'worker', and perhaps 'chief',", PARAMETER_SERVER: "'chief', 'worker' and 'ps'"}


@dataclass(frozen=True)
class ClusterTask:
    """One process of a cluster whose workers train together.

    Attributes:
        names: of all processes in order, the chief's first, e.g. "worker 0".
        addresses: "HOST:PORT" of each.
        index: of this process among them.
        timeout: seconds that a process waits for another, at the start and within the training.
        strategy: how they train together: "multi_worker" or "parameter_server".
    """

    names: tuple[str, ...]
    addresses: tuple[str, ...]
    index: int
    timeout: float
    strategy: str = MULTI_WORKER

    @property
    def has_servers(self) -> bool:
        """Whether tables are on parameter servers."""
        return self.strategy == PARAMETER_SERVER

    def place(self, index: int) -> tuple[str, int]:
        """Returns the job of a process and its number there."""
        job, _, number = self.names[index].partition(" ")
        return job, int(number)

    def list_addresses(self) -> dict[str, list[str]]:
        """Lists the addresses by job, as TensorFlow describes a cluster."""
        found: dict[str, list[str]] = {}
        for index, address in enumerate(self.addresses):
            found.setdefault(self.place(index)[0], []).append(address)
        return found

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.index == 0

    @property
    def local_index(self) -> int:
        """The number of earlier processes on the same host, which have its first devices."""
        host = split_address(self.addresses[self.index])[0]
        return [split_address(each)[0] for each in self.addresses[: self.index]].count(host)

    def describe(self, index: int) -> str:
        """Returns the name and address of a process, for messages."""
        return f"{self.names[index]} ({self.addresses[index]})"


def read_task(timeout: float, strategy: str = MULTI_WORKER, environment: Mapping[str, str] = os.environ) -> ClusterTask:
    """Reads the cluster of a strategy from TF_CONFIG.

    Raises:
        ConfigError: where TF_CONFIG is missing, is not such a document, or does not name this process.
    """
    if not timeout > 0:
        raise ConfigError(f"--cluster_timeout: invalid value {timeout:g} (expected seconds above 0)")
    text, example = environment.get(VARIABLE, ""), _EXAMPLES[strategy]
    if not text:
        raise ConfigError(
            f"{VARIABLE}: missing environment variable (expected {example}); set it on every machine, or start a "
            "cluster on this one with twotower launch"
        )
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE}: invalid JSON: {error} (expected {example})") from None
    cluster, task = (document.get(part) if isinstance(document, dict) else None for part in ("cluster", "task"))
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise ConfigError(f"{VARIABLE}: invalid document (expected {example})")
    places = _list_places(cluster, strategy)
    kind, index = task.get("type"), task.get("index")
    if kind not in JOBS[strategy] or not cluster.get(kind):
        known = ", ".join(repr(job) for job in JOBS[strategy] if cluster.get(job))
        raise ConfigError(f"{VARIABLE}: task.type: invalid value {kind!r} (expected a job of the cluster: {known})")
    count = len(cluster[kind])
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
        raise ConfigError(f"{VARIABLE}: task.index: invalid value {index!r} (expected 0 to {count - 1}, of {kind!r})")
    names, addresses = zip(*places, strict=True)
    return ClusterTask(names, addresses, names.index(f"{kind} {index}"), timeout, strategy)


def _list_places(cluster: Mapping[str, Any], strategy: str) -> list[tuple[str, str]]:
    """Returns (name, address) of all processes that train.

    Raises:
        ConfigError: for another job, a missing one, two chiefs, or an address that is invalid or stands twice.
    """
    other = [job for job in cluster if job not in JOBS[strategy] and cluster[job]]
    if other:
        served = f", or train with --strategy={PARAMETER_SERVER}" if other[0] in JOBS[PARAMETER_SERVER] else ""
        raise ConfigError(
            f"{VARIABLE}: cluster: invalid job {other[0]!r} (expected {_WANTED[strategy]} for "
            f"--strategy={strategy}); leave it out{served}"
        )
    places: list[tuple[str, str]] = []
    for job in JOBS[strategy]:
        addresses = cluster.get(job) or []
        if not isinstance(addresses, list):
            raise ConfigError(f"{VARIABLE}: cluster.{job}: invalid value {addresses!r} (expected a list of HOST:PORT)")
        for number, address in enumerate(addresses):
            if not isinstance(address, str) or split_address(address)[1] is None:
                raise ConfigError(f"{VARIABLE}: cluster.{job}: invalid address {address!r} (expected HOST:PORT)")
            if address in (each for _, each in places):
                raise ConfigError(f"{VARIABLE}: cluster.{job}: the address {address} stands twice; give each its own")
            places.append((f"{job} {number}", address))
    needed = JOBS[strategy] if strategy == PARAMETER_SERVER else () if places else ("worker",)
    for job in needed:
        if not cluster.get(job):
            raise ConfigError(f"{VARIABLE}: cluster: missing job {job!r} (expected {_EXAMPLES[strategy]})")
    if len(cluster.get("chief") or []) > 1:
        raise ConfigError(f"{VARIABLE}: cluster.chief: invalid number of addresses (expected one)")
    return places


def split_address(address: str) -> tuple[str, int | None]:
    """Returns host and port of "HOST:PORT", also of "[IPV6]:PORT"; None for a port where there is none."""
    host, _, port = address.rpartition(":")
    valid = bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16
    return host.removeprefix("[").removesuffix("]"), int(port) if valid else None
