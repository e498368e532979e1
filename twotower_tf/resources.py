"""Measures the CPUs and memory that this process may use, within the limits of its control groups (v1 or v2).

The limits of a container are those of its control group. A group is also bounded by the groups above it, so all of them
are read.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")  # v2, v2, v1
_USED = ("memory.current", "memory.usage_in_bytes")
_ROOT = Path("/")
WORTH_COLLECTING = 64 << 20  # bytes: a collection takes a second in a process with many objects


def count_cpus(root: Path = _ROOT) -> int:
    """Counts the CPUs that the process may run on, at most the quota of its groups, rounded up."""
    found = len(os.sched_getaffinity(0))
    for group in _list_groups(root, "cpu"):
        quota, period = _read_quota(group)
        if quota > 0 and period > 0:
            found = min(found, math.ceil(quota / period))
    return max(1, found)


def format_bytes(size: int) -> str:
    """Formats a number of bytes with a unit: `1.5 GB`, `20.0 MB`, `0.1 kB`."""
    for unit, step in (("GB", 10**9), ("MB", 10**6)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size / 1000:.1f} kB"


def total_memory(root: Path = _ROOT) -> int:
    """Returns the bytes of memory that the process may use in all."""
    limits = [limit for group in _list_groups(root, "memory") for limit in _read_numbers(group, _LIMITS)]
    return min([_read_fields(root / "proc/meminfo")["MemTotal:"] << 10, *limits])


def available_memory(root: Path = _ROOT) -> int:
    """Returns the bytes of memory that the process may still allocate.

    A group's page cache can be reclaimed, and after a preparation it is most of the group's memory: it counts as free,
    as in MemAvailable.
    """
    found = _read_fields(root / "proc/meminfo")["MemAvailable:"] << 10
    for group in _list_groups(root, "memory"):
        limits, used = _read_numbers(group, _LIMITS), _read_numbers(group, _USED)
        if not limits or not used:
            continue
        held = _read_fields(group / "memory.stat")
        # v1 counts the groups below under names of their own; v2 has no other
        files = [held.get(f"total_{name}", held.get(name, 0)) for name in ("active_file", "inactive_file")]
        found = min(found, min(limits) - used[0] + sum(files))
    return max(0, found)


def limit_library_threads(environment: MutableMapping[str, str] = os.environ, root: Path = _ROOT) -> None:
    """Limits the threads of libraries that count the machine's CPUs themselves to the quota.

    TensorFlow, OpenMP and Arrow read these variables when they start their threads, at the first operation: later calls
    have no effect. Variables that are set already are kept.
    """
    allowed = count_cpus(root)
    if allowed < len(os.sched_getaffinity(0)):
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            environment.setdefault(name, str(allowed))


def release_freed_tensors(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes TensorFlow return the memory of a freed tensor to the system; otherwise it keeps it for the next ones.

    Not for training, whose steps would be slower. TensorFlow reads the variable at its first operation: later calls
    have no effect.
    """
    environment.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")


def collect_garbage(size: int) -> None:
    """Frees objects that refer to each other, as TensorFlow's do, where `size` bytes of tables are worth the time."""
    if size >= WORTH_COLLECTING:
        gc.collect()


def _list_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the directories of the process's control group and of those above it, innermost first."""
    mounts = root / "sys/fs/cgroup"
    paths = {"": "/", controller: "/"}  # inside of a container, the group's own directory is what is mounted
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update({name: path for name in controllers.split(",") if name in paths})
    for name, path in paths.items():
        mount = mounts / name if name else mounts
        below = Path(path.lstrip("/"))
        yield from (mount / each for each in (below, *below.parents) if (mount / each).is_dir())


def _read_quota(group: Path) -> tuple[int, int]:
    """Reads the microseconds of CPU time within a period, and the period; zeros for no limit."""
    quota, _, period = _read_text(group / "cpu.max").partition(" ")
    if quota:
        return (int(quota), int(period or 100_000)) if quota != "max" else (0, 0)
    numbers = _read_numbers(group, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (0, 0)


def _read_numbers(group: Path, names: Sequence[str]) -> list[int]:
    """Reads the numbers in those files that exist and do not contain `max`."""
    texts = (_read_text(group / name) for name in names)
    return [int(text) for text in texts if text not in ("", "max")]


def _read_fields(path: Path) -> dict[str, int]:
    """Reads a kernel file that has a name and a number on each line."""
    lines = (line.split() for line in _read_text(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def _read_text(path: Path) -> str:
    """Reads a kernel file; "" where it does not exist."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
