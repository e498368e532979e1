"""CPUs and memory that control groups allow, read from trees of files as the kernel lays them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twotower_tf import resources
from twotower_tf.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20


def machine(root: Path, groups: str, files: dict[str, object]) -> Path:
    """A file system with 64 MiB of memory, 48 MiB of it available, and files of control groups."""
    fields = {
        "proc/self/cgroup": groups,
        "proc/meminfo": "MemTotal: 65536 kB\nMemAvailable: 49152 kB\nHugePages_Total: 0\n",
    }
    for name, text in (fields | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "250000 100000"}, 3),  # two and a half
        ("0::/", {"cpu.max": "20000 100000"}, 1),
        ("0::/", {"cpu.max": "9900000 100000"}, 8),
        ("0::/pod/one", {"pod/one/cpu.max": "max 100000", "pod/cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "50000"}, 3),
        # seen from inside of a container: the group's path is the host's, its files are at the mount
        ("4:cpu:/docker/1a", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_a_quota_of_cpu_time_bounds_the_cpus(tmp_path: Path, groups: str, files: dict[str, object], cpus: int) -> None:
    root = machine(tmp_path, groups, files)
    assert resources.count_cpus(root) == cpus
    environment = {"OMP_NUM_THREADS": "7"}
    resources.limit_library_threads(environment, root)
    set_for_tensorflow = {name: str(cpus) for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}
    assert environment == {"OMP_NUM_THREADS": "7"} | (set_for_tensorflow if cpus < 8 else {})


THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def test_a_pipeline_of_python_is_bound_as_a_command_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "count_cpus", lambda root: 3)
    for name in THREADS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    Pipeline(ROOT / "configs" / "quickstart.py", "nowhere")
    assert [os.environ.get(name) for name in THREADS] == ["3", "3", "3"]


V2 = {
    "memory.max": 40 * MIB,
    "memory.current": 10 * MIB,
    "memory.stat": f"anon 1\nactive_file {2 * MIB}\ninactive_file 0",
}


@pytest.mark.parametrize(
    ("groups", "files", "total", "available"),
    [
        ("0::/", {}, 64, 48),
        ("0::/", {**V2, "memory.max": "max"}, 64, 48),
        ("0::/", V2, 40, 32),  # 10 taken, of which 2 are files
        ("0::/", {**V2, "memory.high": 20 * MIB}, 20, 12),
        ("0::/a/b", {"a/b/memory.max": "max", "a/b/memory.current": 0, **{f"a/{k}": v for k, v in V2.items()}}, 40, 32),
        ("9:memory:/", {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": 7}, 64, 48),
        (
            "9:memory:/pod",
            {
                "memory/pod/memory.limit_in_bytes": 16 * MIB,
                "memory/pod/memory.usage_in_bytes": 12 * MIB,
                "memory/pod/memory.stat": f"active_file 0\ninactive_file 0\ntotal_active_file 0\n"
                f"total_inactive_file {3 * MIB}",
            },
            16,
            7,
        ),
        ("9:memory:/", {"memory/memory.limit_in_bytes": MIB, "memory/memory.usage_in_bytes": 2 * MIB}, 1, 0),
    ],
)
def test_limits_of_memory(tmp_path: Path, groups: str, files: dict[str, object], total: int, available: int) -> None:
    root = machine(tmp_path, groups, files)
    assert (resources.total_memory(root), resources.available_memory(root)) == (total * MIB, available * MIB)


def test_this_machine_has_cpus_and_memory() -> None:
    total = next(line for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    assert 0 < resources.available_memory() <= int(total.split()[1]) * 1024
    assert 1 <= resources.count_cpus() <= 8


def test_sizes_have_a_unit() -> None:
    texts = [resources.format_bytes(size) for size in (900, 12_300_000, 4_560_000_000)]
    assert texts == ["0.9 kB", "12.3 MB", "4.6 GB"]
